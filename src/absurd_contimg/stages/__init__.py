"""What the pipeline does to data: one module a stage, and how a stage is run.

A stage runs in a child process, writes into a run-scoped scratch folder, checks what it made
and hands it over as one product folder that is renamed into place. Stages know nothing of
Absurd: `PipelineOrchestrator` runs them in order without a database, the workflows run the
same stages durably.
"""
