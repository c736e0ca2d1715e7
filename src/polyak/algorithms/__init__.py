"""One file each: `td3.py` is TD3."""
