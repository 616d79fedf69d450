"""The daemon killed at random moments while files arrive."""
