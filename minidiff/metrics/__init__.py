"""Distances between two sets of images: FID and its relatives."""
