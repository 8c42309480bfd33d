"""Weights in files: our own format, what others release, and what both say about the model."""
