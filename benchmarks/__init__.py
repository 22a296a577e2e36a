"""Benchmarks: two things measured in one run, and the ratio between them held to a budget."""
