"""What this machine lacks to measure a printed cell, why some cells stay published only, and which command measures one."""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from .paper import join_key
from .record import Record
from .tables_cells import Row, Slot
from .tables_computed import preset_name

GPU = "T4"  # every published latency was measured on one
_PACKAGES = {
    "yolov8": "ultralytics", "yolo11": "ultralytics", "dfine": "transformers", "rtdetr": "transformers", "lwdetr": "transformers",
    "groundingdino": "transformers", "llmdet": "transformers",
}  # fmt: skip
_PUBLISHED_ONLY = {
    "fastinst": "FastInst has no installable package: research code on detectron2",
    "maskdino": "MaskDINO has no installable package: research code on detectron2 with its own CUDA operator",
    "caev2vits16truncated": "training a detector on this backbone is not part of the suite",
    "siglipv2vitb32": "training a detector on this backbone is not part of the suite",
    "sam2hieras": "training a detector on this backbone is not part of the suite",
}
COST_COMMAND = "python -m rfdetr_repro.bench.costs"
_WEIGHTS_AND_COCO = "--checkpoint FILE --data $RFDETR_COCO"
_DATA = {"coco-val2017": "COCO val2017 (RFDETR_COCO)", "rf100-vl": "RF100-VL", "rf20-vl": "RF20-VL"}


@dataclass(frozen=True)
class Here:
    """What this machine has: an NVIDIA GPU and its name, data sets, released weights, packages that bring baselines."""

    gpu: bool
    data: frozenset[str]
    gpu_name: str = ""
    weights: bool = False
    packages: frozenset[str] = field(default_factory=frozenset)

    @classmethod
    def detect(cls, records: Iterable[Record] = ()) -> Here:
        """The NVIDIA driver, folders ``RFDETR_COCO`` and ``RFDETR_WEIGHTS``, packages, and data that Records were measured on."""
        data = {record.data.name for record in records if record.data and record.published is None}
        if Path(os.environ.get("RFDETR_COCO", "no such folder")).is_dir():
            data.add("coco-val2017")
        weights = Path(os.environ.get("RFDETR_WEIGHTS", "no such folder")).is_dir()
        driver = Path("/proc/driver/nvidia")
        return cls((driver / "version").exists(), frozenset(data), _gpu_name(driver), weights, _installed())

    def lacks(self, row: Row, slot: Slot) -> frozenset[str]:
        """Which of "weights", "data", "package" and "GPU" (the paper's) a measurement of this cell is short of."""
        name = _data_name(row)
        averaged = row.identity.model.family == "rfdetr" and row.arch is None  # one architecture per data set, found by searches
        trained = slot.accuracy or slot.metric == "knob" or (averaged and row.table != "11")
        short = set()
        if trained or row.table == "11":
            short |= {"data"} if name not in self.data else set()
            short |= {"weights"} if not self.weights else set()
        package = _PACKAGES.get(row.identity.model.family)
        if package is not None and package not in self.packages:
            short.add("package")
        if (slot.metric == "ms" or row.table == "11") and GPU not in self.gpu_name.replace("-", " ").split():
            short.add("GPU")
        return frozenset(short)

    def why_not(self, row: Row, slot: Slot) -> str:
        """Why this machine could not put a measurement beside this cell; "" if it could. Any NVIDIA GPU may stand beside a T4."""
        if reason := published_only(row, slot):
            return reason
        short = self.lacks(row, slot) - ({"GPU"} if self.gpu else set())
        name = _data_name(row)
        words = {
            "GPU": "no NVIDIA GPU",
            "data": f"no {_DATA.get(name, name)}",
            "weights": "no trained weights (RFDETR_WEIGHTS)",
            "package": f"no package {_PACKAGES.get(row.identity.model.family, '')}",
        }
        missing = [text for what, text in words.items() if what in short]
        return f"{', '.join(missing)} on this machine" if missing else ""


@functools.cache
def _installed() -> frozenset[str]:
    return frozenset(name for name in _PACKAGES.values() if importlib.util.find_spec(name) is not None)


def _gpu_name(driver: Path) -> str:
    """Model names of the driver's GPUs, e.g. "Tesla T4"."""
    lines = [line for file in sorted(driver.glob("gpus/*/information")) for line in file.read_text(errors="replace").splitlines()]
    return ", ".join(line.partition(":")[2].strip() for line in lines if line.startswith("Model:"))


def published_only(row: Row, slot: Slot) -> str:
    """Why no measurement of this suite can ever fill the cell; "" if one can."""
    if slot.metric == "reported":
        return "reported by the model's authors"
    if slot.metric == "fit":
        return "a fit over 100 searched data sets, which is not part of the suite"
    if slot.accuracy and row.identity.model.variant == "step 2":
        return "training LW-DETR is not part of the suite"
    return _PUBLISHED_ONLY.get(row.identity.model.family, "")


def command(row: Row, slot: Slot) -> tuple[str, str]:
    """(the command that would measure the cell with NAME for the model, the name); FILE, RUN and DIR are the user's.

    Both are "" for a cell that stays published only.
    """
    model, name = row.identity.model, bench_name(row)
    if published_only(row, slot):
        return "", ""
    if slot.metric == "knob":
        return "python -m rfdetr_repro.reproduce --campaign coco", ""
    if row.table == "11":
        return f"python -m rfdetr_repro.bench --models NAME --backend tensorrt --precision fp16 {_WEIGHTS_AND_COCO}", _rivals(
            row, slot
        )
    if model.family == "rfdetr" and row.arch is None:
        return "python -m rfdetr_repro.search --run RUN --data DIR, once for each of the 100 data sets", ""
    if slot.metric in ("params", "flops"):
        return COST_COMMAND, name
    if slot.accuracy and (row.delta or (model.variant or "").startswith("step ")) and row.arch is not None:
        verb = "finetune --run RUN" if row.delta else "train"
        return f"python -m rfdetr_repro.{verb} --arch NAME --data DIR --out RUN", row.arch.key
    flags = f" {_WEIGHTS_AND_COCO if 'coco' in _data_name(row) else '--checkpoint FILE --data DIR'}" if slot.accuracy else ""
    backend = "torch" if row.printed.get("latency_backend") == "pytorch" else "tensorrt --precision fp16"
    campaign = {"1": "table1", "v2_20": "buffer-sweep"}.get(row.table)
    if campaign and not slot.accuracy:
        return f"python -m rfdetr_repro.bench --campaign {campaign} --backend tensorrt", ""
    return f"python -m rfdetr_repro.bench --models NAME --backend {backend}{flags}", name


def bench_name(row: Row) -> str:
    """The name of a row's model on the command line, e.g. ``rfdetr-nano``, ``dfine-s``."""
    family, size, _, _ = join_key(row.identity)
    if row.arch is not None and not size:
        return f"rfdetr at {row.arch.key}"
    seg = "-seg" if row.identity.model.task == "segment" and not preset_name(row) else ""
    return f"{family}-{preset_name(row) or size.lower()}{seg}"


def _rivals(row: Row, slot: Slot) -> str:
    """Table 11: D-FINE of the column's size and the RF-DETRs with the row's backbone."""
    wide, narrow = ("xlarge", "2xlarge"), ("nano", "small", "medium", "large")
    sizes = wide if "DINOv2-B" in row.identity.model.name else narrow
    own = "" if row.identity.model.family == "dfine" else "".join(f",rfdetr-{size}" for size in sizes)
    return f"dfine-{slot.size.lower()}{own}"


def _data_name(row: Row) -> str:
    return row.identity.data.name if row.identity.data else ""
