"""Adopts ONNX files of other programs as artifacts with ranked detections."""

from __future__ import annotations

from rfdetr_repro.spec.lazy import lazily

__getattr__ = lazily(
    __name__,
    {
        "Wishes": "adoption",
        "adopt": "adoption",
    },
)
