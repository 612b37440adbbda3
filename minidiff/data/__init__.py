"""Data sets, their labels, their corruptions, and the cache of decoded images."""
