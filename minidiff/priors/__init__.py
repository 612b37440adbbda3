"""Priors of a whole data set: one small network, trained to take noise from its images."""
