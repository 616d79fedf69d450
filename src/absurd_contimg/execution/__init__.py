"""How one attempt of a stage is run: contract, process, deadline, scratch, logs. Knows no queue."""
