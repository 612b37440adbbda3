"""Whether a picture shows what was asked for."""
