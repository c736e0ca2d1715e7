"""Pictures and words for people: progress in a terminal, learning curves, videos."""
