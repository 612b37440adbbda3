"""Training: the loop, its batches and settings, and what happens between its steps."""
