"""The long form of test_attacks.py: `python tests/torture`, or `make torture`."""
