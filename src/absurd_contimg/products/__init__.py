"""Products of stages: manifest, store and the file-system port. Knows no stage and no queue."""
