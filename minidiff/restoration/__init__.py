"""A noisy photo made whole: a deep image prior, then a reverse chain."""
