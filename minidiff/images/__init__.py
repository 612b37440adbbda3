"""Images on their way in and out: files, grids, streams of samples, faults, quality."""
