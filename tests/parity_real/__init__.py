"""Real weights through the binary and through the reference; see README.md."""
