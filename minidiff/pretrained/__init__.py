"""Opening any trained model by its name or folder."""
