"""Scores and their uncertainty from labels, probabilities and groups (NumPy and SciPy, no JAX)."""
