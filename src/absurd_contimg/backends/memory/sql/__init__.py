"""SQL over the emulator: parsed by sqlglot, compiled to closures, run on the engine's tables.

Meant for what clients, operators and tools send to a database with Absurd's schema. Whatever is
not understood is refused with an error that quotes it.
"""
