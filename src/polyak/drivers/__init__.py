"""Where data comes from, and nothing else."""
