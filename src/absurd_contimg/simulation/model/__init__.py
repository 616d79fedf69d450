"""What a simulated world is made of: disk, hosts, registry, stages, telescope, workers."""
