"""The psycopg-shaped connection: psycopg's classes, errors and values over the emulator.

Nothing is sent anywhere. psycopg's own adapters turn Python's values into SQL's and its row
factories make the rows, so code written for psycopg sees no difference.
"""
