"""Numpy and file formats: beam, catalogue, visibilities, solutions, images. Knows no stage."""
