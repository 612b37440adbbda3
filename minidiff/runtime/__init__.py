"""The machine that does the work: processes, precision, processors."""
