"""Deep image priors: a network fitted to one picture."""
