"""The simulated world: production code in virtual time, under injected faults.

Three things are replaced: the clock (`loop`, on SimPy), the backend (the emulator behind
`gateway`), and how a stage is run (`runner`). Everything else is the code that runs in production,
and none of it knows that this package exists.
"""
