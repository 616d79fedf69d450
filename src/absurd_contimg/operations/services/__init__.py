"""The worker as an operating-system process, and what it needs around it."""
