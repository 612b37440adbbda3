"""The version of the package: it stands in every run, study and page."""

__version__ = "0.1.0"
