"""Which command would measure a printed cell: every one is taken by its program's own parser, with
names that it knows.
"""

from __future__ import annotations

from rfdetr_repro.paper.cells import Row, Slot

from .here import bench_name, data_name, published_only
from .timing import WITH_GRAPH

_BENCH = "python -m rfdetr_repro.bench"
_TUNED = "nas+fine-tuning"
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


def command(row: Row, slot: Slot) -> tuple[str, tuple[str, ...]]:
    """(the command that would measure the cell, with NAME for the model; every name it has to run
    with, none if it has no NAME).

    Other words in capitals are the user's (:data:`LEGEND`). "" for a cell that stays published
    only.
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
    """By the benchmark: a campaign, a model by its name, or a file cut from a supernet."""
    campaign = {"1": "table1", "v2_20": "buffer-sweep"}.get(row.table)
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
        if data == "DIR":  # every data set has weights, and classes, of its own
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
    """Each data set has its own architecture: found by a search near the printed latency, then
    measured on the test split.
    """
    model = row.identity.model
    name = data_name(row)
    ms = row.printed["latency_ms"]
    steps = [
        f"python -m rfdetr_repro.search --run RUN --data DIR --targets-ms {ms} --confirm-on "
        f"val,test {_TENSORRT} --cuda-graph"
    ]
    if model.variant == _TUNED:
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
    """The command with its names put in, once for each of them; what :data:`LEGEND` explains is
    left to the user.
    """
    how, names = command(row, slot)
    return " && ".join(how.replace("NAME", name) for name in names) if names else how


def _rivals(row: Row, slot: Slot) -> tuple[str, ...]:
    """Table 11: D-FINE of the column's size and the RF-DETRs with the row's backbone."""
    wide = ("xlarge", "2xlarge")
    narrow = ("nano", "small", "medium", "large")
    sizes = wide if "DINOv2-B" in row.identity.model.name else narrow
    own = () if row.identity.model.family == "dfine" else tuple(f"rfdetr-{size}" for size in sizes)
    return (f"dfine-{slot.size.lower()}", *own)
