"""The SQL that the emulator supports; `tests/conformance/supported_statements.py` lists it."""
