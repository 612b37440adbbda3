"""Images at the edge of the package: files, grids, streams of samples, faults, quality."""
