"""Absurd's procedures, one function each, in the modules of their subjects.

Each reads beside its SQL: same name, same order of steps, same errors. They take the transaction
first and then the SQL function's arguments; an answer is a named tuple of the SQL function's
columns, or a list of them. Importing the package declares them all (see `signatures`).
"""

from absurd_contimg.backends.memory.procedures import events, queues, runs, tasks

__all__ = ["events", "queues", "runs", "tasks"]
