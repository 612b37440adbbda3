"""Open, sample and measure any trained model by its name or folder."""
