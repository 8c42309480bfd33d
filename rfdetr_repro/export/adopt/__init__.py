"""ONNX files of other programs, made artifacts with ranked detections."""
