"""Checkpoints of diffusers, read and written."""
