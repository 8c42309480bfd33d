"""Rivals that are trained here: other detectors, by transformers' own models and losses, on the
same data and by the same budget as RF-DETR, exported and measured in the same way.
"""
