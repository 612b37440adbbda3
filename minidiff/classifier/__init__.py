"""A ResNet-18 for small images. It judges samples, and metrics use its features."""
