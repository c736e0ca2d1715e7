"""What a person looks at: progress in a terminal, learning curves, videos."""
