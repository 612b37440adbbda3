"""Denoising diffusion probabilistic models: how to train one, and how to draw from a trained one."""
