"""The version of iftb-store."""

__version__ = "0.2.0"
