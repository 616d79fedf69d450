"""The rendered units under a real systemd, in namespaces of its own: ``python -m systemd_run``."""
