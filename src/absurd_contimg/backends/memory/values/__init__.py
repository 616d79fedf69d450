"""The values of Postgres' types: how they are read, printed and computed. It knows no SQL and no table."""
