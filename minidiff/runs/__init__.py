"""Run folders: their files, their log and their curves."""
