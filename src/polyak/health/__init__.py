"""Is all well? Environments before a run, machines, and runs that do not learn."""
