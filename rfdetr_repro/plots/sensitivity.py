"""The paired effect of each knob as dots with intervals, one row per step: the counterpart of the
camera-ready's Figure 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from matplotlib.axes import Axes
from matplotlib.figure import FigureBase

from rfdetr_repro.records.pareto import backend
from rfdetr_repro.records.record import Record
from rfdetr_repro.records.sensitivity import Change, Step, comparable_searches, sensitivity
from rfdetr_repro.spec.arch import KNOB_LABELS, KNOB_UNITS
from rfdetr_repro.spec.errors import InputError

from .layout import foot_height_in, foot_line, heading, thinned
from .style import BLUE, GREEN, GREY, LIGHT, drawable
from .values import data_words

_HEAD_IN = 0.66
_LABELS_IN = 0.3  # of the tick labels
_ROW_IN = 0.2
_MOST_STEPS = 36  # with the gaps between the knobs the rows then fit a page


def _shown(records: Sequence[Record]) -> tuple[list[Record], list[Step], int]:
    """The largest comparable search, all its steps, and how many further searches there are."""
    groups = [
        (group, steps) for group in comparable_searches(records) if (steps := sensitivity(group))
    ]
    if not groups:
        raise InputError(
            "there is no pair of search Records that differ in one knob only",
            hint="give the Records of a campaign",
        )
    return *groups[0], len(groups) - 1


def sensitivity_height_in(records: Sequence[Record]) -> float:
    """Height in inches of the rows; raises :class:`InputError` if there is nothing to draw."""
    group, steps, others = _shown(records)
    drawn = _thinned(steps)
    foot = foot_height_in(_explained(group, others, len(drawn), len(steps)))
    return _HEAD_IN + _LABELS_IN + foot + _ROW_IN * len(_rows(drawn))


def draw_sensitivity(figure: FigureBase, records: Sequence[Record]) -> None:
    """Draws the mean change of AP (left) and of modelled latency (right) by one step of one knob,
    with 95 % intervals over backbones.

    The largest of several comparable searches is drawn, and the footer mentions the others. Of a
    knob with very many values some steps are drawn, evenly, and the footer says how many.
    """
    group, every, others = _shown(records)
    steps = _thinned(every)
    rows = _rows(steps)
    text = _explained(group, others, len(steps), len(every))
    foot = _LABELS_IN + foot_height_in(text)
    height = _HEAD_IN + foot + _ROW_IN * len(rows)
    left, right = figure.subplots(1, 2, sharey=True)
    figure.subplots_adjust(
        left=0.27, right=0.97, top=1 - _HEAD_IN / height, bottom=foot / height, wspace=0.1
    )
    heading(figure, f"One step of one knob, all else equal{data_words(group[0])}")
    _panel(left, rows, [step.ap_points for step in steps], BLUE)
    _panel(right, rows, [step.latency_percent for step in steps], GREEN)
    left.set_title("change of AP, points", fontweight="normal")
    right.set_title("change of latency, %", fontweight="normal")
    places = [place for place, step in enumerate(rows) if step]
    left.set_yticks(places, [_label(step) for step in rows if step])
    left.set_ylim(len(rows) - 0.4, -0.6)
    foot_line(figure, text)


def _thinned(steps: Sequence[Step]) -> list[Step]:
    """The steps where they fit a page; else as many of each knob as every knob can have, evenly
    and with both ends.
    """
    knobs = [list(run) for _, run in groupby(steps, key=lambda step: step.knob)]
    most = max(map(len, knobs))
    while most > 2 and sum(min(len(run), most) for run in knobs) > _MOST_STEPS:
        most -= 1
    return [run[place] for run in knobs for place in thinned(len(run), most)]


def _explained(group: Sequence[Record], others: int, drawn: int, every: int) -> str:
    """What the bars are and what is not drawn."""
    text = (
        f"Means over pairs among {len(group)} configurations; bars: 95 % interval over backbones; "
        f"{drawable(backend(group[0]))}."
    )
    if drawn < every:
        text += f" {drawn} of {every} steps are drawn."
    if others:
        left_out = "One other search" if others == 1 else f"{others} other searches"
        text += f" {left_out} in these Records: not drawn."
    return text


def _rows(steps: Sequence[Step]) -> list[Step | None]:
    """The steps with a gap (``None``) between two knobs."""
    rows: list[Step | None] = []
    for step in steps:
        before = rows[-1] if rows else None
        rows += [None, step] if before is not None and before.knob != step.knob else [step]
    return rows


def _label(step: Step) -> str:
    unit = f" {KNOB_UNITS[step.knob]}" if step.knob in KNOB_UNITS else ""
    return f"{KNOB_LABELS[step.knob]} {step.low} → {step.high}{unit}"


def _panel(axes: Axes, rows: Sequence[Step | None], changes: Sequence[Change], color: str) -> None:
    places = [place for place, step in enumerate(rows) if step]
    axes.axvline(0, color=GREY, linewidth=0.8, zorder=1)
    axes.grid(axis="x", color=LIGHT)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0, labelleft=axes.get_subplotspec().is_first_col())  # type: ignore[union-attr]
    for place, change in zip(places, changes, strict=True):
        if change.low is not None and change.high is not None:
            axes.plot(
                [change.low, change.high],
                [place, place],
                color=color,
                linewidth=1.6,
                alpha=0.55,
                zorder=2,
            )
    axes.plot([change.mean for change in changes], places, "o", color=color, markersize=4, zorder=3)
