"""Pages about runs and studies."""
