"""PyTorch program to ONNX graph, and operations on ONNX graphs."""
