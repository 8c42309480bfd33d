"""Weights in files: this package's format, the formats of other projects, and what the files state
about their models.
"""
