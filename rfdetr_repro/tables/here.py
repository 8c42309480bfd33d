"""What this machine lacks to measure a printed cell, and why some cells stay published only."""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from rfdetr_repro.paper.cells import NAIVE, Row, Slot
from rfdetr_repro.paper.published import join_key
from rfdetr_repro.records.record import Record
from rfdetr_repro.spec.presets import PRESETS

from .computed import SIZES, preset_name
from .timing import GPU

_PACKAGES = {
    "yolov8": "ultralytics",
    "yolo11": "ultralytics",
    "dfine": "transformers",
    "rtdetr": "transformers",
    "lwdetr": "transformers",
    "groundingdino": "transformers",
    "llmdet": "transformers",
}
_PUBLISHED_ONLY = {
    "fastinst": "FastInst has no installable package: research code on detectron2",
    "maskdino": "MaskDINO has no installable package: research code on detectron2 with its own "
    "CUDA operator",
    "caev2vits16truncated": "training a detector on this backbone is not part of the suite",
    "siglipv2vitb32": "training a detector on this backbone is not part of the suite",
    "sam2hieras": "training a detector on this backbone is not part of the suite",
}
_RANDOM_ONLY = {"groundingdino", "llmdet"}
_DATA = {"coco-val2017": "COCO val2017 (RFDETR_COCO)", "rf100-vl": "RF100-VL", "rf20-vl": "RF20-VL"}


@dataclass(frozen=True)
class Here:
    """What this machine has: an NVIDIA GPU and its name, data sets, released weights, packages that
    bring baselines.
    """

    gpu: bool
    data: frozenset[str]
    gpu_name: str = ""
    weights: bool = False
    packages: frozenset[str] = field(default_factory=frozenset)

    @classmethod
    def detect(cls, records: Iterable[Record] = ()) -> Here:
        """The NVIDIA driver, folders ``RFDETR_COCO`` and ``RFDETR_WEIGHTS``, packages, and data
        that Records were measured on.
        """
        data = {record.data.name for record in records if record.data and record.published is None}
        if Path(os.environ.get("RFDETR_COCO", "no such folder")).is_dir():
            data.add("coco-val2017")
        weights = Path(os.environ.get("RFDETR_WEIGHTS", "no such folder")).is_dir()
        driver = Path("/proc/driver/nvidia")
        return cls(
            (driver / "version").exists(), frozenset(data), _gpu_name(driver), weights, _installed()
        )

    def lacks(self, row: Row, slot: Slot) -> frozenset[str]:
        """Which of "weights", "data", "package" and "GPU" (the paper's) a measurement of this cell
        is short of.
        """
        name = data_name(row)
        # one architecture per data set, found by searches
        averaged = row.identity.model.family == "rfdetr" and row.arch is None
        elsewhere = slot.metric == "ms" and not name.startswith(
            "coco"
        )  # classes, and so the file, are the data set's
        trained = (
            slot.accuracy or slot.metric == "knob" or elsewhere or (averaged and row.table != "11")
        )
        short = set()
        if trained or row.table == "11":
            short |= {"data"} if name not in self.data else set()
            short |= {"weights"} if not self.weights else set()
        if (
            slot.metric == "ms"
            and row.arch is not None
            and not bench_name(row)
            and not self.weights
        ):
            short.add("weights")  # such an architecture is cut from a supernet's file
        package = _PACKAGES.get(row.identity.model.family)
        if package is not None and package not in self.packages:
            short.add("package")
        if (slot.metric == "ms" or row.table == "11") and GPU not in self.gpu_name.replace(
            "-", " "
        ).split():
            short.add("GPU")
        return frozenset(short)

    def why_not(self, row: Row, slot: Slot) -> str:
        """Why this machine could not put a measurement beside this cell; "" if it could.

        Any NVIDIA GPU may stand beside a T4.
        """
        if reason := published_only(row, slot):
            return reason
        short = self.lacks(row, slot) - ({"GPU"} if self.gpu else set())
        name = data_name(row)
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
    return frozenset(
        name for name in _PACKAGES.values() if importlib.util.find_spec(name) is not None
    )


def _gpu_name(driver: Path) -> str:
    """Model names of the driver's GPUs, e.g. "Tesla T4"."""
    lines = [
        line
        for file in sorted(driver.glob("gpus/*/information"))
        for line in file.read_text(errors="replace").splitlines()
    ]
    return ", ".join(line.partition(":")[2].strip() for line in lines if line.startswith("Model:"))


def published_only(row: Row, slot: Slot) -> str:
    """Why no measurement of this suite can ever fill the cell; "" if one can."""
    if slot.metric == "reported":
        return "reported by the model's authors"
    if slot.metric == "fit":
        return "a fit over 100 searched data sets, which is not part of the suite"
    if slot.variant == NAIVE:
        return "no command of this suite makes the FP16 export that loses accuracy"
    family = row.identity.model.family
    variant = row.identity.model.variant
    if slot.accuracy and variant == "step 2":
        return "training LW-DETR is not part of the suite"
    if slot.accuracy and variant in ("step 3", "step 4"):
        return (
            "trained without weight sharing, which no Record of this suite tells from the "
            "supernet's (step 5)"
        )
    if slot.accuracy and family in _RANDOM_ONLY:
        return "this suite builds the model with random weights only, for latency and cost"
    if slot.metric == "ms" and family in _RANDOM_ONLY and not data_name(row).startswith("coco"):
        return (
            "its latency depends on the class names it is asked for, and those of the 100 data "
            "sets need their data and weights"
        )
    if (
        slot.metric == "ms"
        and (variant or "").startswith("step ")
        and not data_name(row).startswith("coco")
    ):
        return (
            "no command measures a step of the ablation on these data sets; its latency on COCO is "
            "in Table 5"
        )
    return _PUBLISHED_ONLY.get(family, "")


def bench_name(row: Row) -> str:
    """The name of a row's model on the command line, e.g.

    ``rfdetr-nano``, ``dfine-s``; "" for an architecture without a name.
    """
    family, size, _, _ = join_key(row.identity)
    if row.arch is not None and not size:
        return next(
            (f"rfdetr-{name}" for name in SIZES.values() if PRESETS[name].arch == row.arch), ""
        )
    seg = "-seg" if row.identity.model.task == "segment" and not preset_name(row) else ""
    return f"{family}-{preset_name(row) or size.lower()}{seg}"


def data_name(row: Row) -> str:
    """The data set that Records of a row join on; "" if it has none."""
    return row.identity.data.name if row.identity.data else ""
