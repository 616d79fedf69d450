"""The read side: what happened to tasks, why they wait, what must hold, over any `Inspection`.

Knows histories and the step journal; knows no worker, no stage and no file.
"""
