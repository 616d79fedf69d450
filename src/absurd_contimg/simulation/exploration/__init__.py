"""Crash-point exploration: number every effect, then inject a fault at each."""
