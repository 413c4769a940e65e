"""Understand and predict what shoppers do next."""
__version__ = "0.1.0"
