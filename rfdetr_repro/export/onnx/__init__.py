"""PyTorch program to ONNX graph, and operations on ONNX graphs."""

from __future__ import annotations

from rfdetr_repro.spec.lazy import lazily

__getattr__ = lazily(
    __name__,
    {
        "export_onnx": "exporter",
    },
)
