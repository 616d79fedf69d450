"""The command line `contimg`."""
