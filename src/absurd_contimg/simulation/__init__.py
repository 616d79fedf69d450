"""The simulated world: production code in virtual time, under injected faults.

`runtime` replaces the event loop and its clock, `model` the ports of a worker: database, files,
registry, stages. `exploration` injects faults at every crash point of one workflow, `campaign` at
times of whole days. Everything else is the code of production, which does not know this package.
"""
