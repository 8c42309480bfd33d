"""From a PyTorch subnet to one file that is measured: ONNX with a manifest, and sessions that run
it.
"""
