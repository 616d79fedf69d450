"""Absurd in memory: the engine, its `Backend`, and a psycopg-shaped connection.

A complete emulation of Absurd's schema in pure Python, for tests, simulation and notebooks. It
knows nothing of workers and reads no clock but the one it is given.
"""

from absurd_contimg.backends.memory.backend import MemoryBackend
from absurd_contimg.backends.memory.database import MemoryDatabase

__all__ = ["MemoryBackend", "MemoryDatabase"]
