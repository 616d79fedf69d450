"""Durable execution: handlers, their context, the worker that runs them, the failure kinds.

Everything here speaks to the database through the `Backend` protocol and to the clock through
the running event loop. It knows nothing of Postgres, of the emulator, of stages or of SimPy;
the import contract in ``pyproject.toml`` holds that.
"""
