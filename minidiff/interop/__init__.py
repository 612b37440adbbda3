"""Read and write checkpoints of diffusers."""
