"""What must hold of every history and of every world: one public function for each invariant.

It yields one sentence for each violation. Those over one history are in `histories`, those over a
world under observation in `world`, those over a run with faults beside a run without any in
`recovery`. `check` collects and runs them, for the simulation, the tests and ``contimg audit``.
"""
