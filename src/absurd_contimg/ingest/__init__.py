"""From files in the incoming folder to tasks."""
