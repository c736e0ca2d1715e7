"""Environments of our own, written in JAX."""
