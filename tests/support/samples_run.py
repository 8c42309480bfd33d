"""A small made-up campaign run for tests of tables, plots and reports.

Every number comes from a formula and means nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

from rfdetr_repro.records.pareto import frontier
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
from rfdetr_repro.records.store import Store
from rfdetr_repro.spec.arch import Arch, SearchSpace
from rfdetr_repro.spec.protocol import Protocol

SPACE = SearchSpace((96, 128, 160), (12, 16, 20), (1, 2), (0, 1, 2), (10, 15, 25))
MACHINE = Machine("Example CPU", 2, 7.7, "Linux 6.1")
SPLITS = {"train": (2000, "a" * 64), "val": (300, "b" * 64), "test": (200, "c" * 64)}


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def ap_of(arch: Arch) -> float:
    return round(
        0.12 * (1 - math.exp(-arch.grid_hw[0] / 5))
        + 0.015 * arch.decoder_layers
        + 0.0012 * arch.queries
        - 0.01 * (arch.windows - 1),
        4,
    )


def latency_of(arch: Arch) -> float:
    return round(
        2.0
        + 0.03 * arch.tokens
        + 0.8 * arch.decoder_layers
        + 0.02 * arch.queries
        - 0.2 * (arch.windows - 1),
        4,
    )


def model(arch: Arch) -> ModelId:
    return ModelId(
        "rfdetr",
        f"pico {arch.key}",
        "segment",
        "pico",
        arch=arch,
        checkpoint_sha256=sha("checkpoint"),
    )


def data(split: str) -> DataId:
    return DataId("embedded", split, SPLITS[split][1], SPLITS[split][0])


def accuracy(ap: float, artifact: str | None = None) -> Accuracy:
    return Accuracy(
        ap,
        round(1.9 * ap, 4),
        round(0.9 * ap, 4),
        round(0.4 * ap, 4),
        ap,
        round(1.2 * ap, 4),
        artifact_sha256=artifact,
    )


def search_record(arch: Arch) -> Record:
    return Record(
        "search",
        model(arch),
        data("val"),
        cost=Cost(3_100_000, 2e8),
        accuracy=accuracy(ap_of(arch)),
        mask_accuracy=accuracy(0.8 * ap_of(arch)),
        latency=Latency(latency_of(arch), "modelled", heldout_error=0.03),
        machine=MACHINE,
        campaign="embedded",
    )


def protocol_record(arch: Arch, split: str = "val", mode: str = "buffered") -> Record:
    name = sha(arch.key)
    ms = latency_of(arch) * (1.02 if mode == "buffered" else 0.9)
    ap = ap_of(arch) * (1.0 if split == "val" else 0.6)
    latency = Latency(
        round(ms, 4),
        ci_low_ms=round(0.97 * ms, 4),
        ci_high_ms=round(1.04 * ms, 4),
        p05_ms=round(0.95 * ms, 4),
        p90_ms=round(1.1 * ms, 4),
        num_samples=64,
        images_per_s=round(1000 / ms, 2),
        artifact_sha256=name,
        stop_reason="max samples",
    )
    return Record(
        "protocol",
        model(arch),
        data(split),
        ArtifactId(name, name, "onnxruntime-cpu", "fp32", 12_400_000),
        Cost(3_100_000, 2e8),
        accuracy(ap, name),
        accuracy(0.8 * ap, name),
        latency,
        Protocol(mode=mode),
        MACHINE,
        campaign="embedded",
        started_at="2025-01-02T03:04:05+00:00",
        command="python -m rfdetr_repro.reproduce",
        seed=0,
        env={"onnxruntime": "1.31.1"},
    )


def run_records() -> list[Record]:
    records = [search_record(arch) for arch in SPACE]
    for chosen in frontier(records):
        arch = chosen.model.arch
        assert arch is not None
        records += [
            protocol_record(arch),
            protocol_record(arch, "test"),
            protocol_record(arch, mode="sustained"),
        ]
    return records


def training_rows() -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for step in range(20, 2001, 20):
        loss = 4 + 14 * math.exp(-step / 500) + 0.4 * math.sin(step)
        rows.append(
            {
                "step": step,
                "seconds": step * 0.13,
                "loss": loss,
                "loss_class": 0.3 * loss,
                "loss_giou": 0.5 * loss,
            }
        )
        if step % 400 == 0:
            ap = 0.12 * (1 - math.exp(-step / 900))
            rows += [
                {
                    "step": step,
                    "split": split,
                    "ap": f * ap,
                    "ap50": 1.9 * f * ap,
                    "mask_ap": 0.8 * f * ap,
                }
                for split, f in (("val", 1.0), ("test", 0.6))
            ]
    return rows


def summary() -> dict[str, object]:
    return {
        "title": "Embedded campaign, made-up numbers",
        "campaign": "embedded",
        "command": "python -m rfdetr_repro.reproduce",
        "started_at": "2025-01-02T03:04:05+00:00",
        "finished_at": "2025-01-02T03:26:41+00:00",
        "machine": {"cpu": "Example CPU", "cores": 2, "memory_gib": 7.7, "os": "Linux 6.1"},
        "env": {
            "python": "3.11.2",
            "torch": "2.13.0",
            "onnxruntime": "1.31.1",
            "git": "0123456789abcdef",
        },
        "stages": [
            {"name": "data", "seconds": 41.2, "detail": "2,500 images composed"},
            {"name": "train", "seconds": 690.0, "detail": "2,000 steps, batch 8"},
            {"name": "search", "seconds": 121.0, "detail": f"{len(SPACE)} configurations"},
            {"name": "confirm", "seconds": 260.5, "detail": "frontier exported and measured"},
        ],
        "data": {
            "description": "Sprites over photographs from a seed. val: known objects, new scenes; "
            "test: unknown objects.",
            "splits": {
                name: {"images": count, "sha256": digest}
                for name, (count, digest) in SPLITS.items()
            },
        },
        "recipe": {
            "steps": 2000,
            "batch_size": 8,
            "lr": 7e-4,
            "ema_decay": 0.997,
            "seed": 0,
            "model": {"vit_dim": 192, "hidden": 128},
        },
        "departures": [
            "random initial weights (paper: DINOv2, then Objects365)",
            "learning rate 0.0007 (paper: 0.0001)",
        ],
        "search": {
            "configurations": len(SPACE),
            "backbones": 18,
            "shared_seconds": 96.0,
            "one_by_one": {
                "configurations_timed": 6,
                "seconds_per_configuration": 5.4,
                "shared_seconds_per_configuration": 0.59,
                "speedup": 9.15,
            },
            "latency_model": {
                "engines_measured": 24,
                "heldout": 8,
                "heldout_median_error": 0.031,
                "heldout_max_error": 0.094,
            },
        },
        "checks": ["every frontier point: exported boxes match PyTorch (64 of 64 matched)"],
    }


def write_run(folder: Path, *, pictures: bool = True) -> Path:
    """Writes a run folder as the reproduce flow leaves it and returns it."""
    Store(folder / "records.jsonl").extend(run_records())
    (folder / "summary.json").write_text(json.dumps(summary()))
    (folder / "train_log.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in training_rows())
    )
    if pictures:
        _write_picture(folder / "predictions" / "val_000.png")
        (folder / "predictions.json").write_text(
            json.dumps([{"file": "val_000.png", "caption": "val: prediction next to ground truth"}])
        )
    return folder


def _write_picture(path: Path) -> None:
    import numpy as np
    from matplotlib.image import imsave

    path.parent.mkdir(parents=True, exist_ok=True)
    rows, columns = np.mgrid[0:120, 0:240]
    imsave(
        path, np.stack([rows / 120, columns / 240, np.full(rows.shape, 0.5)], -1).astype("float32")
    )
