"""Reads what happened to tasks, over any backend: timelines, invariants, the health of a queue."""
