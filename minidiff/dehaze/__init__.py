"""Dehazing in two stages: the physics of haze, and then diffusion."""
