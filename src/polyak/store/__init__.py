"""Run folders on disk: arrays in files that cannot run code, and checkpoints made of them."""
