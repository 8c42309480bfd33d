"""The effect of one step of each knob, with all else equal: one table per comparable search.

The effects are those of :mod:`rfdetr_repro.records.sensitivity`.
"""

from __future__ import annotations

from collections.abc import Sequence

from rfdetr_repro.records.pareto import backend, images
from rfdetr_repro.records.record import Record
from rfdetr_repro.records.sensitivity import Change, comparable_searches, sensitivity

from .campaign import SYNTHETIC
from .table import MEASURED, Cell, Column, Table

PARTS = {"mean": "mean", "low": "95 % from", "high": "to"}
NOTES = (
    "Pairs differ only in the knob, as requested; the input size is rounded down to whole windows.",
    "Interval: bootstrap over backbones, so it is about the place in the space, not about images "
    "or the latency model.",
)


def sensitivity_tables(records: Sequence[Record]) -> list[Table]:
    """One table per model file, data and latency model; no table without a pair of neighbours."""
    tables = [_table(group) for group in comparable_searches(records)]
    return [table for table in tables if table.rows]


def _table(group: Sequence[Record]) -> Table:
    first = group[0]
    columns = [
        Column("knob", "knob", right=False),
        Column("low", "from"),
        Column("high", "to"),
        Column("pairs", "pairs", rank=1),
    ]
    columns.append(Column("backbones", "backbones", rank=2))
    for key, title in (("ap", "AP, points"), ("latency", f"latency ({backend(first)}), %")):
        columns += [Column(f"{key}_{part}", label, title) for part, label in PARTS.items()]
    synthetic = first.data is not None and first.data.synthetic
    title = f"Effect of one step of each knob on {images(first)}, {len(group)} configurations"
    if first.model.checkpoint_sha256:
        title += f" of {first.model.checkpoint_sha256[:8]}"
    table = Table(
        "sensitivity", title + (" (SYNTHETIC data: not COCO AP)" if synthetic else ""), columns
    )
    table.facts = {
        "data": images(first),
        "engine": backend(first),
        "checkpoint": first.model.checkpoint_sha256 or "",
    }
    for step in sensitivity(group):
        row = {"knob": Cell(step.knob.replace("_", " "), value=step.knob)}
        row |= {
            name: Cell(str(value), value=value)
            for name in ("low", "high", "pairs", "backbones")
            for value in (getattr(step, name),)
        }
        table.add(
            row | _cells("ap", step.ap_points, 2) | _cells("latency", step.latency_percent, 1)
        )
    table.notes = [*([SYNTHETIC] if synthetic else []), *NOTES]
    return table


def _cells(key: str, change: Change, digits: int) -> dict[str, Cell]:
    """Cells with signed numbers; the interval is empty where there is only one backbone."""
    values = {f"{key}_{part}": getattr(change, part) for part in PARTS}
    return {
        name: Cell(f"{value:+.{digits}f}", MEASURED, value)
        for name, value in values.items()
        if value is not None
    }
