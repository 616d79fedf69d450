"""The SQL that the emulator supports: parsed by sqlglot, compiled to closures, evaluated.

The contract is `tests/conformance/supported_statements.py`; everything else is refused.
"""
