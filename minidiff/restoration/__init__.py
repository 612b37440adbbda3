"""Clean a noisy photo: fit a deep image prior, then finish with a reverse chain."""
