"""Studies: many trainings measured alike."""
