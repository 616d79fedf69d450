"""The values of Postgres' types: how they are read, printed and computed.

Nothing here knows SQL or a table.
"""
