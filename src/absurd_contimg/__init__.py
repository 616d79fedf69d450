"""Durable execution for the DSA-110 continuum imaging pipeline, on Absurd."""
