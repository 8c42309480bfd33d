"""The printed tables of an evaluation's diagnosis, from its JSON (``metrics.json``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .table import Cell, Column, Table, percent_cell
from .text import width_of

CLASS_COLUMNS = 28  # of a class's name, so that a row fits 80 columns
UNKNOWN = Cell("-")
RATES = ("ap", "ap50", "precision", "recall", "f1")
UNKNOWN_NOTE = (
    "-: unknown. A class or a size without objects has no AP, recall or F1; precision needs "
    "detections at or above the threshold."
)


def class_table(diagnosis: Mapping[str, Any], kind: str) -> Table:
    """One row per class, then the mean: images and objects, AP, AP50, and precision, recall and F1
    at the threshold, in percent.

    ``diagnosis``: the JSON of boxes or masks; ``kind``: "boxes" or "masks".
    """
    columns = [
        Column("class", "class", right=False),
        Column("images", "images"),
        Column("objects", "objects"),
        *(Column(key, label) for key, label in (("ap", "AP"), ("ap50", "AP50"))),
        *(Column(key, label) for key, label in (("precision", "P"), ("recall", "R"), ("f1", "F1"))),
    ]
    at = diagnosis["threshold"]["score"]
    where = "no threshold is known" if at is None else f"P, R, F1 at score {at:g}, IoU 0.5"
    table = Table(f"classes-{kind}", f"{kind} by class ({where})", columns)
    for row in diagnosis["classes"]:
        name = {"class": Cell(fitted(row["name"]))}
        counts = {key: Cell(f"{row[key]}", "", row[key]) for key in ("images", "objects")}
        table.add(name | counts | _percents(row, RATES))
    objects = sum(row["objects"] for row in diagnosis["classes"])
    mean = {"class": Cell("mean over classes"), "objects": Cell(f"{objects}", "", objects)}
    table.add(mean | _percents(diagnosis["mean"], RATES))
    return table


def size_table(diagnosis: Mapping[str, Any], kind: str) -> Table:
    """AP of COCO's small, medium and large objects and their recall at the threshold, in
    percent.
    """
    columns = [
        Column("size", "size", right=False),
        Column("side", "side, px", right=False),
        Column("objects", "objects"),
        Column("ap", "AP"),
        Column("ap50", "AP50"),
        Column("recall", "R"),
    ]
    table = Table(f"sizes-{kind}", f"{kind} by size (square root of the area)", columns)
    for row in diagnosis["sizes"]:
        low = round(row["from_px2"] ** 0.5)
        high = None if row["to_px2"] is None else round(row["to_px2"] ** 0.5)
        side = f"{low} and more" if high is None else f"{low} to {high}"
        cells = {"size": Cell(row["size"]), "side": Cell(side)}
        cells["objects"] = Cell(f"{row['objects']}", "", row["objects"])
        table.add(
            cells | {key: percent_cell(row[key], UNKNOWN) for key in ("ap", "ap50", "recall")}
        )
    return table


def fitted(name: str, most: int = CLASS_COLUMNS) -> str:
    """``name`` in at most ``most`` columns of a terminal; its end is cut off where it is longer."""
    if width_of(name) <= most:
        return name
    end = len(name)
    while width_of(name[:end]) > most - 1:
        end -= 1
    return f"{name[:end]}…"


def _percents(row: Mapping[str, Any], names: Sequence[str]) -> dict[str, Cell]:
    return {name: percent_cell(row[name], UNKNOWN) for name in names}
