"""What must hold of every history and of every world: one named function for each invariant.

A function yields one sentence for each thing that is wrong. Those over one history are in
`task_states`, `failures` and `steps`; those that also need to have watched the world are in
`world`. `check` runs them, for the simulation, the tests and ``contimg audit`` alike.
"""
