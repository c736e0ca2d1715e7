"""The long form of test_attacks.py: `python -m tests.torture`, or `make torture`."""
