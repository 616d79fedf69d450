"""The pipeline's stages, one module each, named as the stage.

A stage turns its context into one product folder and a record of its outputs. Stages know nothing
of Absurd: `PipelineOrchestrator` runs them in order without a database, workflows run the same
stages durably.
"""
