"""Run folders: what is in them, their log, their curves, and how they describe themselves."""
