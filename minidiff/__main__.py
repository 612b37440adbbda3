"""`python -m minidiff`, which is what torchrun starts."""

from minidiff.cli import main

main()
