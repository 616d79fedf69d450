"""The psycopg-shaped connection: psycopg's own classes over a session of the emulator.

`MemoryConnection` and `MemoryCursor` are subclasses of `psycopg.Connection` and `psycopg.Cursor`,
and so are the asynchronous ones. psycopg itself does transactions, placeholders, row factories and
fetching. `MemoryPGconn` stands where psycopg has libpq's connection, and replaces the generators
that send a query to a server and receive its result. They are private to psycopg: a version that
renames one fails in ``tests/backends/memory/test_connection.py``.
"""
