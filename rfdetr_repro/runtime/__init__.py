"""Sessions that run an artifact: ONNX Runtime, OpenVINO, TensorRT, PyTorch."""
