"""Measurement: accuracy and latency of one artifact, by a stated protocol, as Records."""
