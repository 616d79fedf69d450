"""Absurd's procedures, one function each, in the modules of their subjects.

Each reads beside its SQL: same name, same order of steps, same errors. They take the transaction
first and then the SQL function's arguments; UUIDs are integers, times microseconds, jsonb its
canonical text, and answers are tuples of the SQL function's columns.
"""
