"""Adapters that put other detectors into the same table: pre- and post-processing plus rows. None is here yet."""
