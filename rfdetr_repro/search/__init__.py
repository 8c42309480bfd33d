"""The search: accuracy of every architecture by shared passes, latency by a few engines and an
additive model.
"""
