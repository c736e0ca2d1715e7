"""Environments and the adapters to other people's."""
