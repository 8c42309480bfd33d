"""What ONNX Runtime makes of an INT8 file: its integer kernels, counted in the graph that it runs.

A file in QDQ form states rounded values around float32 operators. Whether a product is computed
with integers is the runtime's decision, so the census asks the runtime.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime

from rfdetr_repro.spec.unfinished import temporary_folder

INTEGER_KERNELS = {
    "QLinearConv",
    "ConvInteger",
    "QGemm",
    "QLinearMatMul",
    "MatMulInteger",
    "MatMulIntegerToFloat",
}


def integer_kernels(content: bytes) -> int:
    """Number of products and convolutions that ONNX Runtime computes with integers on this
    processor, in the model with these bytes.
    """
    with temporary_folder() as folder:
        path = Path(folder, "optimised.onnx")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        nodes = onnx.load(path).graph.node
    return sum(node.op_type in INTEGER_KERNELS for node in nodes)
