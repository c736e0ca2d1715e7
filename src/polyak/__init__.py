"""Policy search, from the lecture slide to the cluster."""

__version__ = "0.1.0"
