"""Denoising diffusion probabilistic models: a training, and a trained run to sample from."""
