"""Compares the binary with its reference on real weights; see README.md."""
