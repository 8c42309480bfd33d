"""The search: accuracy of every architecture by shared passes, latency by few engines and an
additive model.
"""
