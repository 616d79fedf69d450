"""Durable execution: worker, handler's context, lease, step journal, failure handling.

Reaches the database through `Backend` and the clock through the event loop. Knows nothing of
Postgres, the emulator, stages, CASA or SimPy.
"""
