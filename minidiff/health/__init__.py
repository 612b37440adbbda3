"""Whether this machine can do what the package asks of it: `minidiff doctor`."""
