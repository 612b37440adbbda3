"""Studies: many trainings measured alike, and pages to read them by."""
