"""Shared by ``test_record.py`` and others: SHA, fixed_record."""

from __future__ import annotations

from rfdetr_repro.records.record import (
    Accuracy,
    ArtifactId,
    DataId,
    Latency,
    Machine,
    ModelId,
    Record,
)
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.protocol import Protocol

ARCH = Arch(128, 16, 1, 2, 25)
SHA = "ab" * 32


def fixed_record(**changes: object) -> Record:
    parts: dict = {
        "source": "protocol",
        "model": ModelId(
            "rfdetr", "pico", "segment", "pico", arch=ARCH, checkpoint_sha256="cd" * 32
        ),
        "data": DataId("embedded", "val", "ef" * 32, 300),
        "artifact": ArtifactId(SHA, SHA, "onnxruntime-cpu", "fp32", 1000),
        "accuracy": Accuracy(0.1, 0.2, artifact_sha256=SHA),
        "latency": Latency(3.5, artifact_sha256=SHA),
        "protocol": Protocol(),
        "machine": Machine("Example CPU", 2, 8.0, "Linux"),
    }
    return Record(**{**parts, **changes})
