"""Requirements of a printed cell: what this machine lacks, why some cells stay published only, and
which command would measure the cell.

The commands are valid for their programs' own parsers.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from rfdetr_repro.paper.campaigns import CAMPAIGNS
from rfdetr_repro.paper.cells import NAIVE, Row, Slot, preset_name
from rfdetr_repro.paper.published import data_set, join_key
from rfdetr_repro.records.record import TUNED, Record
from rfdetr_repro.spec.presets import PRESETS, SIZE_LETTERS, wide

from .join import GPU, WITH_GRAPH

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
_BENCH = "python -m rfdetr_repro.bench"
_MEAN = "python -m rfdetr_repro.mean"
_COSTS = "python -m rfdetr_repro.bench.costs"
_EXPORT = (
    "python -m rfdetr_repro.export --checkpoint RUN/supernet.safetensors --arch NAME --out "
    "FILE.onnx"
)
_TENSORRT = "--backend tensorrt --precision fp16"
_WEIGHTS_AND_COCO = "--checkpoint FILE --data $RFDETR_COCO"
LEGEND = (
    "NAME: one of the names, separated by semicolons, or in turn each of those joined by +; FILE: "
    "its checkpoint, FILE.onnx: a new file; RUN: a run folder; TUNED: a new one; DIR: a "
    "COCO-format folder; RUNS: the folder of the run folders of all data sets; ARCH: what the "
    "search found. Of a line that ends with rfdetr_repro.mean all before that is done for each "
    "data set."
)


@dataclass(frozen=True)
class Here:
    """The resources of this machine: an NVIDIA GPU and its name, data sets, released weights,
    packages with baselines.
    """

    gpu: bool
    data: frozenset[str]
    gpu_name: str = ""
    weights: bool = False
    packages: frozenset[str] = field(default_factory=frozenset)

    @classmethod
    def detect(cls, records: Iterable[Record] = ()) -> Here:
        """The resources, from the NVIDIA driver, the folders ``RFDETR_COCO`` and
        ``RFDETR_WEIGHTS``, installed packages, and the data that Records were measured on.
        """
        data = {data_set(record) for record in records if record.data and record.published is None}
        if os.path.isdir(os.environ.get("RFDETR_COCO", "")):  # noqa: PTH112 (Path("") is ".")
            data.add("coco-val2017")
        weights = os.path.isdir(os.environ.get("RFDETR_WEIGHTS", ""))  # noqa: PTH112
        driver = Path("/proc/driver/nvidia")
        return cls(
            (driver / "version").exists(), frozenset(data), _gpu_name(driver), weights, _installed()
        )

    def lacks(self, row: Row, slot: Slot) -> frozenset[str]:
        """The missing resources, of "weights", "data", "package" and "GPU" (the paper's), for a
        measurement of this cell.
        """
        name = data_name(row)
        # one architecture per data set, found by a search
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
            short.add("weights")  # such an architecture is sliced from a supernet
        package = _PACKAGES.get(row.identity.model.family)
        if package is not None and package not in self.packages:
            short.add("package")
        if (slot.metric == "ms" or row.table == "11") and GPU not in self.gpu_name.replace(
            "-", " "
        ).split():
            short.add("GPU")
        return frozenset(short)

    def why_not(self, row: Row, slot: Slot) -> str:
        """The reason why this machine cannot measure this cell; "" if it can.

        Any NVIDIA GPU counts, because a measurement need not be on a T4.
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
    """Model names of the driver's GPUs, such as "Tesla T4"."""
    lines = [
        line
        for file in sorted(driver.glob("gpus/*/information"))
        for line in file.read_text(errors="replace").splitlines()
    ]
    return ", ".join(line.partition(":")[2].strip() for line in lines if line.startswith("Model:"))


def published_only(row: Row, slot: Slot) -> str:
    """The reason why this suite can never measure the cell; "" if it can."""
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
    """The name of a row's model on the command line, such as

    ``rfdetr-nano``, ``dfine-s``; "" for an architecture without a name.
    """
    family, size, _, _ = join_key(row.identity)
    if row.arch is not None and not size:
        return next(
            (f"rfdetr-{name}" for name in SIZE_LETTERS if PRESETS[name].arch == row.arch), ""
        )
    seg = "-seg" if row.identity.model.task == "segment" and not preset_name(row) else ""
    return f"{family}-{preset_name(row) or size.lower()}{seg}"


def data_name(row: Row) -> str:
    """The name of the data set that Records of a row must have; "" if the row has none."""
    return row.identity.data.name if row.identity.data else ""


def command(row: Row, slot: Slot) -> tuple[str, tuple[str, ...]]:
    """(command that would measure the cell, with NAME for the model; names to replace NAME by).

    :data:`LEGEND` explains the other words in capitals. The command is "" for a cell that stays
    published only.
    """
    model = row.identity.model
    if published_only(row, slot):
        return "", ()
    if slot.metric == "knob":
        return "python -m rfdetr_repro.reproduce --campaign coco", ()
    if row.table == "11":
        return f"{_BENCH} --models NAME {_TENSORRT} --cuda-graph both {_WEIGHTS_AND_COCO}", _rivals(
            row, slot
        )
    if model.family == "rfdetr" and row.arch is None:
        return _averaged(row), ()
    if slot.metric in ("params", "flops"):
        return _COSTS, ()
    if slot.accuracy and row.delta and row.arch is not None:
        tuning = (
            "python -m rfdetr_repro.finetune --run RUN --arch NAME --data $RFDETR_COCO --out TUNED"
        )
        return tuning, (row.arch.key,)
    return _measurement(row, slot)


def _measurement(row: Row, slot: Slot) -> tuple[str, tuple[str, ...]]:
    """The benchmark command: for a campaign, a model by name, or a file that is sliced from a
    supernet.
    """
    campaign = next((name for name, table in CAMPAIGNS.items() if table == row.table), "")
    if campaign and not slot.accuracy:
        return f"{_BENCH} --campaign {campaign} --backend tensorrt --cuda-graph both", ()
    data = "$RFDETR_COCO" if "coco" in data_name(row) else "DIR"
    graph = " --cuda-graph" if row.identity.model.family in WITH_GRAPH else ""
    if name := bench_name(row):
        backend = (
            "--backend torch"
            if row.printed.get("latency_backend") == "pytorch"
            else f"--backend tensorrt --precision {slot.precision or 'fp16'}{graph}"
        )
        if data == "DIR":  # every data set has its own weights and classes
            return (
                f"{_BENCH} --models NAME {backend} --checkpoint FILE --data DIR --split test --out "
                f"RUN/records.jsonl && "
                + (f"{_MEAN} --name {data_name(row)} --out results/{data_name(row)}.jsonl RUNS"),
                (name,),
            )
        return f"{_BENCH} --models NAME {backend}" + (
            f" --checkpoint FILE --data {data}" if slot.accuracy else ""
        ), (name,)
    arch = row.arch.key if row.arch is not None else ""
    return f"{_EXPORT} && {_BENCH} --onnx FILE.onnx {_TENSORRT}{graph}" + (
        f" --data {data}" if slot.accuracy else ""
    ), (arch,)


def _averaged(row: Row) -> str:
    """Commands for rows with an architecture per data set, which is found by a search near the
    printed latency and measured on the test split.
    """
    model = row.identity.model
    name = data_name(row)
    ms = row.printed["latency_ms"]
    steps = [
        f"python -m rfdetr_repro.search --run RUN --data DIR --targets-ms {ms} --confirm-on "
        f"val,test {_TENSORRT} --cuda-graph"
    ]
    if model.variant == TUNED:
        steps.append("python -m rfdetr_repro.finetune --run RUN --arch ARCH --data DIR --out TUNED")
        measured = "--data DIR --split val,test --out TUNED/records.jsonl"
        steps.append(
            f"{_BENCH} --onnx TUNED/artifacts/nas-fine-tuning-*.onnx {_TENSORRT} --cuda-graph "
            f"{measured}"
        )
    mean = (
        f"--runtime tensorrt --cuda-graph on --size {model.size} --target-ms {ms} --variant "
        f"{model.variant}"
    )
    return " && ".join([*steps, f"{_MEAN} --name {name} {mean} --out results/{name}.jsonl RUNS"])


def spelled_out(row: Row, slot: Slot) -> str:
    """The command for each name; words that :data:`LEGEND` explains are left to the user."""
    how, names = command(row, slot)
    return " && ".join(how.replace("NAME", name) for name in names) if names else how


def _rivals(row: Row, slot: Slot) -> tuple[str, ...]:
    """Models of Table 11: D-FINE with the column's size and the RF-DETRs with the row's
    backbone.
    """
    sizes = [
        size
        for size in SIZE_LETTERS
        if size != "max" and wide(size) is ("DINOv2-B" in row.identity.model.name)
    ]
    own = () if row.identity.model.family == "dfine" else tuple(f"rfdetr-{size}" for size in sizes)
    return (f"dfine-{slot.size.lower()}", *own)
