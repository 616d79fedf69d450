"""Absurd behind the `Backend` protocol: the real engine in Postgres, and the emulator."""
