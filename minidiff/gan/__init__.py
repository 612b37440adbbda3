"""Generative adversarial networks: DCGAN, WGAN, WGAN-GP."""
