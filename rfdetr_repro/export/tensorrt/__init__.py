"""TensorRT engines: building, what their layers compute in, and the CUDA device they run on."""
