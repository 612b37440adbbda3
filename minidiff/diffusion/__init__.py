"""The mathematics of diffusion: noise schedules, the forward process, what a network predicts, samplers."""
