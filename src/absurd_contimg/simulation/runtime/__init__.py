"""The event loop in virtual time, and how a simulated process pauses and dies."""
