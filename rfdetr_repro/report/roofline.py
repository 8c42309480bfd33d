"""How near the attention operators come to what the processor can do: a figure from the numbers of
a benchmark run.

    pytest benchmarks/test_ops.py --benchmark-only --benchmark-json operators.json
    python -m reports.roofline operators.json [--out roofline.png]

The work is a gather of 64-byte lines with two floating-point operations per four bytes, so the roof
is the measured rate of such reads, and the axis across is what they are read from: the bytes of the
value maps. Needs no torch.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from matplotlib.figure import FigureBase
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from rfdetr_repro.plots.style import BLUE, GREY, ORANGE, VERMILION
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import read_json

SERIES = {
    "ours": ("this operator", BLUE, "o"),
    "torch_ms_deform_attn": ("torch-ms-deform-attn", VERMILION, "s"),
    "grid_sample": ("grid_sample", ORANGE, "^"),
}


def rows_of(path: Path) -> list[dict[str, Any]]:
    """``extra_info`` of the forward benchmarks on one thread, by size of their maps.

    Raises :class:`InputError` where none is.
    """
    try:
        rows = [entry["extra_info"] for entry in read_json(path)["benchmarks"]]
        found = [
            row
            for row in rows
            if row.get("limit_ms") and row.get("gathered_bytes") and row.get("value_bytes")
        ]
        for row in found:
            _check_numbers(row)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"not a file of pytest-benchmark ({error})", path) from error
    if not found:
        raise InputError(
            "no forward benchmark with its limit",
            path,
            "run benchmarks/test_ops.py, on a machine with a C compiler",
        )
    return sorted(found, key=lambda row: row["value_bytes"])


def _check_numbers(row: dict[str, Any]) -> None:
    """Raises ValueError for a size or a time that is not a number above 0."""
    for name, value in row.items():
        if not name.endswith(("_ms", "_bytes")):
            continue
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not 0 < value < 1e18:
            raise ValueError(f"{name} = {repr(value)[:60]} is not a number above 0")


def draw(figure: FigureBase, rows: list[dict[str, Any]]) -> None:
    """Gathered GB/s over the bytes of the maps, both logarithmic, with the measured roof above."""
    axes = figure.subplots(gridspec_kw={"left": 0.08, "right": 0.72, "bottom": 0.16, "top": 0.9})
    across = [row["value_bytes"] / 2**20 for row in rows]

    def speeds(name: str) -> list[float]:
        return [
            row["gathered_bytes"] / row[f"{name}_ms"] / 1e6 if f"{name}_ms" in row else math.nan
            for row in rows
        ]

    axes.plot(
        across,
        speeds("limit"),
        color=GREY,
        marker="_",
        linestyle="--",
        label="measured limit:\nrandom 64-byte reads",
    )
    for name, (label, colour, marker) in SERIES.items():
        # no lines: the cases differ in more than their maps
        if any(f"{name}_ms" in row for row in rows):
            axes.plot(across, speeds(name), color=colour, marker=marker, linestyle="", label=label)
    axes.set(xscale="log", yscale="log", xlabel="value maps, MiB", ylabel="gathered, GB/s")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(NullLocator())
    axes.set_title("Deformable attention, forward, float32, one thread")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), labelspacing=1.0)
