"""How stages become Absurd tasks: the strategies of the integration analysis.

A workflow is an ordinary handler on the core's `TaskContext`. It knows stages and the registry,
but no backend: the same handler runs on Postgres, on the emulator and in the simulation.
"""
