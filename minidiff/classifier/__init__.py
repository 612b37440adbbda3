"""A ResNet-18 for small images: it judges samples, and lends its features to metrics."""
