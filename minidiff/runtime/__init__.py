"""Where the work is done: processes, precision, processors."""
