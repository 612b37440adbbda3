"""Studies: many trainings, all measured in the same way."""
