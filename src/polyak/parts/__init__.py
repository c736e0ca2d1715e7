"""Things with a name in the literature that several algorithms use."""
