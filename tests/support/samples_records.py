"""Made-up measured Records that join the paper's tables.

Every number is invented and means nothing.
"""

from __future__ import annotations

from rfdetr_repro.records.record import (
    Accuracy,
    ArtifactId,
    Cost,
    DataId,
    Latency,
    Machine,
    ModelId,
    Record,
)
from rfdetr_repro.spec.protocol import Protocol
from rfdetr_repro.tables.missing import Here

SHA = "5e" * 32
OTHER_SHA = "ab" * 32
T4 = Machine("CPU", 8, 16.0, "Linux", gpu="Tesla T4")
PACKAGES = frozenset({"transformers", "ultralytics"})
NOTHING = Here(gpu=False, data=frozenset(), packages=PACKAGES)
EVERYTHING = Here(
    True, frozenset({"coco-val2017", "rf100-vl", "rf20-vl"}), "Tesla T4", True, PACKAGES
)


def measured(
    size: str = "N",
    ap: float | None = 0.479,
    ms: float = 2.3456,
    sha: str = SHA,
    precision: str = "fp16",
    **changes: object,
) -> Record:
    """A protocol Record of RF-DETR on COCO with a TensorRT engine on a T4; ``changes`` replace
    whole parts.
    """
    parts: dict = {
        "source": "protocol",
        "model": ModelId("rfdetr", "ours", size=size),
        "data": DataId("coco-val2017", "val"),
        "artifact": ArtifactId(sha, sha, "tensorrt", precision, 1),
        "accuracy": None if ap is None else Accuracy(ap, 0.67, artifact_sha256=sha),
        "latency": Latency(ms, cuda_graph=True, artifact_sha256=sha),
        "protocol": Protocol(),
        "machine": T4,
    }
    return Record(**{**parts, **changes})


def counted(
    family: str,
    size: str,
    params: int | None,
    gflops: float | None,
    task: str = "detect",
    **cost: object,
) -> Record:
    """A Record of counted parameters and operations."""
    model = ModelId(family, f"{family} {size}", task, size, weights="random")
    return Record(
        "cost", model, cost=Cost(params, None if gflops is None else 1e9 * gflops, **cost)
    )  # type: ignore[arg-type]
