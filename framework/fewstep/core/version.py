"""The version of fewstep."""

__version__ = "0.1.0"
