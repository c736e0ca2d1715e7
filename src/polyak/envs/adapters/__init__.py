"""Environments of other libraries, each behind one of our two protocols."""
