"""The values of Postgres' types: read, printed and computed without SQL or tables."""
