"""The published numbers: every accuracy or latency row of the paper as a ``Record``, and every
table as it was printed.

Data: the folder ``data/`` next to this file (its README names the source of each number). Tables
keep version 1's numbering. A row that changed between versions is in a file twice; the camera-ready
rule keeps ``v1+v2`` and ``v2``. AP is a fraction in Records and in percent in printed tables. A
published Record never holds a measurement, and a measured Record never overwrites a published
Record: they join by :func:`join_key`.
"""

from __future__ import annotations

import csv
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rfdetr_repro.records.record import Accuracy, Cost, DataId, Latency, ModelId, Published, Record
from rfdetr_repro.spec.arch import KNOBS, Arch
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.metrics import COCO_METRICS
from rfdetr_repro.spec.presets import SIZE_LETTERS

CSV_FOLDER = Path(__file__).with_name("data")
CITATION = "arXiv 2511.09554, ICLR 2026"
BUFFERS_MS = (0.0, 200.0, 400.0, 800.0)  # waits of the camera-ready's Table 20


@dataclass(frozen=True)
class TableInfo:
    """The subject of a table of the paper; ``data`` is the data set's name that measured Records
    join on.
    """

    title: str
    data: str = "coco-val2017"
    task: str = "detect"
    records: bool = True  # False: the table holds no accuracy, latency or architecture


TABLES: dict[str, TableInfo] = {
    "1": TableInfo("Reported against re-measured latency, six M-size models"),
    "2": TableInfo("COCO detection, N/S/M/2XL and baselines"),
    "3": TableInfo("COCO instance segmentation (mask AP)", task="segment"),
    "4": TableInfo("RF100-VL detection, mean of 100 data sets", data="rf100-vl"),
    "5": TableInfo("Ablation of the search, cumulative steps"),
    "6": TableInfo("Ablation of the backbone, COCO"),
    "7": TableInfo("Pareto-optimal COCO detection configurations"),
    "8": TableInfo("Pareto-optimal COCO segmentation configurations", task="segment"),
    "9": TableInfo("FLOP counters compared", records=False),
    "10": TableInfo("Class names against class indices, GroundingDINO", data="rf100-vl"),
    "11": TableInfo("AP gap to D-FINE at similar latency, by backbone"),
    "12": TableInfo("COCO detection, L/XL/2XL/Max"),
    "13": TableInfo("COCO instance segmentation, L/XL/2XL/Max (mask AP)", task="segment"),
    "14": TableInfo("RF100-VL detection, L/XL/2XL", data="rf100-vl"),
    "15": TableInfo("COCO detection, what fine-tuning adds"),
    "16": TableInfo("COCO instance segmentation, what fine-tuning adds (mask AP)", task="segment"),
    "17": TableInfo(
        "RF100-VL: fixed architecture, search, search and fine-tuning", data="rf100-vl"
    ),
    "v2_17": TableInfo(
        "Regression of knobs on data set statistics (version 2 only)",
        data="rf100-vl",
        records=False,
    ),
    "v2_19": TableInfo("Ablation of the backbone, RF20-VL (version 2 only)", data="rf20-vl"),
    "v2_20": TableInfo("Latency under 0/200/400/800 ms buffering (version 2 only)"),
}

_FAMILIES = {"yolov11": "yolo11", "rfdetrseg": "rfdetr"}
# how rows of the CSVs spell sizes -> the letter that Records join on
_SIZES = {
    **{name: letter.upper() for name, letter in SIZE_LETTERS.items()},
    "x": "XL",
    "tiny": "T",
}

# usual names of a folder with COCO, as letters and digits, and of its split
_COCO = ("coco", "coco2017", "mscoco", "mscoco2017", "cocoval2017", "instancesval2017")
_COCO_SPLITS = ("val", "val2017")

# What the rows of Table 5 are, by step: (family, size, architecture). The DINOv2 rows of Tables 6
# and v2 19 repeat step 4.
_STEPS: dict[str, tuple[str, str | None, str | None]] = {
    **dict.fromkeys("12", ("lwdetr", "M", None)),
    **dict.fromkeys("345", ("rfdetr", None, "r560-p14-w4-d3-q300")),
    "6": ("rfdetr", None, "r640-p16-w4-d3-q300"),
    "7": ("rfdetr", None, "r576-p16-w4-d3-q300"),
    "8": ("rfdetr", None, "r576-p16-w2-d3-q300"),
    "9": ("rfdetr", None, "r576-p16-w2-d4-q300"),
    "10": ("rfdetr", None, "r576-p16-w2-d4-q300"),
}
_BACKBONE_STEPS = {"DINOv2 ViT/S-14": "4"}


@dataclass(frozen=True)
class PublishedTable:
    """A table as printed. Each of ``rows`` maps every column of ``columns`` to its text;
    ``sources`` has an entry per row.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[dict[str, str], ...]
    row_numbers: tuple[int, ...]  # 0-based lines of the CSV
    sources: tuple[str, ...]


def published_table(name: str | int, version: str = "v2") -> PublishedTable:
    """Any published table (``"7"``, ``"v2_17"``) or other file of ``data/``
    (``"hyperparameters"``), cells as printed text.

    ``version`` "v1" or "v2" keeps that version's rows, "all" keeps every row. Raises
    :class:`InputError` on an unknown name.
    """
    name = str(name)
    columns, rows = _read(_file_stem(name))
    kept = [
        (number, row) for number, row in enumerate(rows) if _kept(row.get("version", ""), version)
    ]
    info = TABLES.get(name)
    return PublishedTable(
        name,
        info.title if info else name.replace("_", " "),
        tuple(column for column in columns if column not in ("version", "source")),
        tuple(row for _, row in kept),
        tuple(number for number, _ in kept),
        tuple(row.get("source", "") for _, row in kept),
    )


def published_records(table: str | int | None = None, version: str = "v2") -> list[Record]:
    """Published rows as Records (``source`` "paper:table2:row5", row = 0-based line of the CSV),
    one table or all.

    A row with several measurements (Tables 1, 11, v2 20) gives one Record per measurement, which
    differ in size or variant. Rows printed as differences (Tables 11, 15, 16) carry no accuracy;
    ``published.note`` quotes them. Tables 7 and 8 carry an ``Arch`` only.
    """
    names = (
        [name for name, info in TABLES.items() if info.records] if table is None else [str(table)]
    )
    records: list[Record] = []
    for name in names:
        if name not in TABLES or not TABLES[name].records:
            known = ", ".join(key for key, info in TABLES.items() if info.records)
            raise InputError(
                f"table {name!r} has no rows of accuracy or latency", hint=f"choose one of {known}"
            )
        for row, identity in published_rows(name, version):
            records += _row_records(name, identity, row)
    return records


def published_rows(name: str | int, version: str = "v2") -> list[tuple[dict[str, str], Record]]:
    """Every row of a table: its printed cells, and a Record that identifies the row's model and
    data and holds no accuracy and no latency.

    The RF-DETR rows of Tables 5, 6 and v2 19 carry the ``Arch`` that their step names spell out.
    """
    name = str(name)
    shown = published_table(name, version)
    return [
        (row, _identity(name, number, row))
        for number, row in zip(shown.row_numbers, shown.rows, strict=True)
    ]


@functools.cache
def architectures() -> dict[tuple[str, str], Arch]:
    """(task, size) -> the architecture that Tables 7 and 8 print for it."""
    rows = [record.model for table in ("7", "8") for record in published_records(table)]
    return {(model.task, model.size or ""): model.arch for model in rows if model.arch is not None}


def join_key(record: Record) -> tuple[str, str, str, str]:
    """(family, size, task, data name) with unified spellings: two Records with the same key are
    printed next to each other.
    """
    family = _family(record.model.family)
    size = record.model.size or ""
    size = _SIZES.get(size.lower(), size.upper())
    # Table 4 prints N where Table 2 prints T, with the same parameters
    if family == "lwdetr" and size == "N":
        size = "T"
    # Table 4's M has the numbers that Table 2 prints for R18, which Table 1 calls M-size
    if family == "rtdetr" and size == "M":
        size = "R18"
    return family, size, record.model.task, record.data.name if record.data else ""


def data_set(record: Record) -> str:
    """The data set of a Record by the name that the tables use; "" without data.

    A folder of COCO may have any of the usual names: its split val is "coco-val2017".
    """
    data = record.data
    if data is None:
        return ""
    slug = re.sub(r"[^a-z0-9]+", "", data.name.lower())
    return "coco-val2017" if slug in _COCO and data.split in _COCO_SPLITS else data.name


def _file_stem(name: str) -> str:
    if name in TABLES:
        return f"table{int(name):02d}" if name.isdigit() else name.replace("_", "_table")
    others = sorted(path.stem for path in CSV_FOLDER.glob("*.csv") if "table" not in path.stem)
    if name not in others:
        raise InputError(
            f"unknown published table {name!r}",
            hint=f"choose one of {', '.join([*TABLES, *others])}",
        )
    return name


@functools.cache
def _read(stem: str) -> tuple[tuple[str, ...], tuple[dict[str, str], ...]]:
    with (CSV_FOLDER / f"{stem}.csv").open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        rows = tuple(dict(row) for row in reader)
    return tuple(reader.fieldnames or ()), rows


def _kept(row_version: str, version: str) -> bool:
    if version not in ("v1", "v2", "all"):
        raise InputError(f"unknown version {version!r}", hint="choose v1, v2 or all")
    return version == "all" or not row_version or version in row_version.split("+")


def _identity(name: str, number: int, row: dict[str, str]) -> Record:
    info = TABLES[name]
    labels = ("model", "backbone", "method", "relationship")
    label = {"7": "RF-DETR", "8": "RF-DETR-Seg"}.get(name) or next(
        row[key] for key in labels if row.get(key)
    )
    family = _family(label.partition(" (")[0])
    size = row.get("size")
    arch = None
    variant = row.get("variant")
    if name in ("5", "6", "v2_19"):
        step = row.get("step") or _BACKBONE_STEPS.get(label, "")
        family, size, key = _STEPS.get(step, (family, None, None))
        arch = Arch.parse(key) if key else None
        variant = f"step {step}" if step else None
    model = ModelId(
        family, label, info.task, size or None, variant or None, arch, weights="published"
    )
    section = row.get("section", "")
    backend = row.get("latency_backend", "")
    note = row.get("note", "")
    # Tables 6 and v2 19: AP and latency of some rows come from different precisions
    if row.get("ap_precision"):
        backend, note = "tensorrt-fp16", f"AP from {row['ap_precision']}; {note}".rstrip("; ")
    published = Published(
        name, number, row["version"], section, backend, note, f"{CITATION}; {row['source']}"
    )
    return Record(
        source=f"paper:table{name}:row{number}",
        model=model,
        data=DataId(info.data, "val" if info.data.startswith("coco") else "mean over data sets"),
        cost=_cost(row),
        published=published,
    )


def _row_records(name: str, identity: Record, row: dict[str, str]) -> Iterator[Record]:
    record = replace(identity, latency=_latency(row.get("latency_ms")))
    special = {
        "1": _reported_and_measured,
        "7": _architecture,
        "8": _architecture,
        "11": _gap_rows,
        "v2_20": _buffers,
    }
    if name in special:
        yield from special[name](record, row)
    elif row.get("ap_kind") == "delta":
        deltas = " ".join(f"{metric} {row[metric]}" for metric in COCO_METRICS if row[metric])
        note = _printed(record).note
        yield _reprinted(record, note=f"{note} change: {deltas}".strip() if deltas else note)
    else:
        yield _with_accuracy(record, _accuracy(row))


def _reported_and_measured(record: Record, row: dict[str, str]) -> Iterator[Record]:
    """Table 1: what the authors report, FP32 and FP16 re-measured, and D-FINE's FP16 export gone
    wrong.
    """
    kinds = (
        ("author-reported", "reported_ap", "reported_latency_ms"),
        ("buffered FP32", "buffered_fp32_ap", "buffered_fp32_latency_ms"),
        ("buffered FP16", "buffered_fp16_ap", "buffered_fp16_latency_ms"),
        ("naive FP16 export", "ap_fp16_naive_export", ""),
    )
    for variant, ap, latency_ms in kinds:
        if row[ap] or row.get(latency_ms):
            backend = {"buffered FP32": "tensorrt-fp32", "author-reported": "author-reported"}.get(
                variant, "tensorrt-fp16"
            )
            yield replace(
                _reprinted(record, latency_backend=backend),
                model=replace(record.model, variant=variant),
                accuracy=_accuracy({"ap": row[ap]}),
                latency=_latency(row.get(latency_ms)),
            )


def column_of_knob(knob: str) -> str:
    """The column of the CSVs that holds one of :data:`KNOBS`."""
    return "patch_size" if knob == "patch" else knob


def _architecture(record: Record, row: dict[str, str]) -> Iterator[Record]:
    arch = Arch(**{knob: int(row[column_of_knob(knob)]) for knob in KNOBS})
    yield replace(record, model=replace(record.model, variant="nas", arch=arch))


def _gap_rows(record: Record, row: dict[str, str]) -> Iterator[Record]:
    """Table 11: one Record per size for the absolute row; for other rows one Record without
    accuracy, which quotes the differences.
    """
    sizes = {size: row[size] for size in ("s", "m", "l", "xl")}
    if row["kind"] == "absolute":
        for size, ap in sizes.items():
            yield replace(
                record,
                model=replace(record.model, size=size.upper()),
                accuracy=_accuracy({"ap": ap}),
            )
    else:
        gaps = " ".join(f"{size.upper()} {gap}" for size, gap in sizes.items())
        yield _reprinted(record, note=f"AP gap to D-FINE: {gaps}")


def _buffers(record: Record, row: dict[str, str]) -> Iterator[Record]:
    for wait_ms in BUFFERS_MS:
        yield replace(
            _reprinted(record, latency_backend="tensorrt-fp16"),
            model=replace(record.model, variant=f"buffer {wait_ms:g} ms"),
            accuracy=_accuracy(row),
            latency=_latency(row[f"latency_ms_buffer_{wait_ms:g}"]),
        )


def _printed(record: Record) -> Published:
    if record.published is None:
        raise ValueError(f"{record.source} is not a published Record")
    return record.published


def _reprinted(record: Record, **changes: Any) -> Record:
    """The Record with changed fields of ``published``."""
    return replace(record, published=replace(_printed(record), **changes))


def _with_accuracy(record: Record, accuracy: Accuracy | None) -> Record:
    return (
        replace(record, mask_accuracy=accuracy)
        if record.model.task == "segment"
        else replace(record, accuracy=accuracy)
    )


def _accuracy(row: dict[str, str]) -> Accuracy | None:
    values = {
        metric: round(float(row[metric]) / 100, 6) if row.get(metric) else None
        for metric in COCO_METRICS
    }
    return Accuracy(**values) if any(value is not None for value in values.values()) else None  # type: ignore[arg-type]


def _latency(milliseconds: str | None) -> Latency | None:
    return Latency(float(milliseconds), method="published") if milliseconds else None


def _cost(row: dict[str, str]) -> Cost | None:
    params = row.get("params_m")
    gflops = row.get("gflops")
    if not params and not gflops:
        return None
    return Cost(
        round(float(params) * 1e6) if params else None, float(gflops) * 1e9 if gflops else None
    )


def _family(name: str) -> str:
    slug = re.sub(r"[^a-z0-9]+", "", name.lower())
    return _FAMILIES.get(slug, slug)
