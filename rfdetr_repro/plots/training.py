"""Loss and accuracy over the steps of a training run, from its log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import FigureBase

from rfdetr_repro.spec.errors import InputError, shortened
from rfdetr_repro.spec.files import parse_json, read_input

from .layout import heading
from .style import BLUE, GREY, VERMILION, end_label

# the values that are drawn
_LOGGED = {
    "step": (0, 1e12),
    "loss": (-1e30, 1e30),
    "ap50": (0, 1),
    "val_ap50": (0, 1),
    "test_ap50": (0, 1),
}


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a JSON Lines training log; an unfinished last line is left out, any other bad
    line raises :class:`InputError`.
    """
    lines = read_input(path).split(b"\n")
    if lines[-1] and not lines[-1].startswith(b"{"):
        raise InputError("not a row of a training log", f"{path}:{len(lines)}", "remove the line")
    rows = []
    for number, line in enumerate(lines[:-1], 1):
        if line.strip():
            try:
                row = parse_json(line)
            except ValueError as error:
                raise InputError(
                    f"not JSON ({error})", f"{path}:{number}", "remove the line"
                ) from error
            if not isinstance(row, dict) or type(row.get("step")) is not int:
                raise InputError("not a row with a step", f"{path}:{number}", "remove the line")
            if not all(
                isinstance(value, (int, float, str)) or value is None for value in row.values()
            ):
                raise InputError(
                    "a row holds more than numbers and names", f"{path}:{number}", "remove the line"
                )
            for name, (low, high) in _LOGGED.items():
                value = row.get(name)
                if value is not None and (
                    isinstance(value, (bool, str)) or not low <= value <= high
                ):
                    message = (
                        f"{name} = {shortened(repr(value), 40)} is not a number from {low:g} to "
                        f"{high:g}"
                    )
                    raise InputError(message, f"{path}:{number}", "remove the line")
            rows.append(row)
    return rows


def draw_training(figure: FigureBase, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draws the loss over optimizer steps (faint: logged values, line: running mean) and the
    evaluated AP50 on val and test.

    ``rows``: dicts with ``step`` and ``loss``; evaluations as ``val_ap50``/``test_ap50`` or
    ``split`` and ``ap50`` (fractions).
    """
    losses = [(row["step"], row["loss"]) for row in rows if row.get("loss") is not None]
    curves = {split: _evaluations(rows, split) for split in ("val", "test")}
    curves = {split: curve for split, curve in curves.items() if curve}
    if not losses and not curves:
        raise InputError(
            "the training log holds neither a loss nor an evaluation",
            hint="give the train_log.jsonl of a run",
        )
    panels = figure.subplots(1, bool(losses) + bool(curves), squeeze=False)[0].tolist()
    figure.subplots_adjust(left=0.085, right=0.93, bottom=0.17, top=0.8, wspace=0.28)
    heading(figure, "Loss and accuracy during training")
    if losses:
        axes = panels.pop(0)
        steps, values = zip(*losses, strict=True)
        axes.plot(steps, values, color=GREY, alpha=0.35, linewidth=0.7)
        axes.plot(steps, running_mean(values), color=BLUE)
        axes.set(xlabel="optimizer step", ylim=(0, 1.05 * max(values[len(values) // 50 :])))
        axes.set_title("training loss")
    for split, curve in curves.items():
        color = {"val": BLUE, "test": VERMILION}[split]
        steps, values = zip(*curve, strict=True)
        panels[0].plot(
            steps, [100 * value for value in values], color=color, marker="o", markersize=3.2
        )
        end_label(panels[0], (steps[-1], 100 * values[-1]), split, color)
        panels[0].set(xlabel="optimizer step")
        panels[0].set_ylim(bottom=0)
        panels[0].set_title("AP50 of the averaged weights, %")


def _evaluations(rows: Iterable[Mapping[str, Any]], split: str) -> list[tuple[int, float]]:
    found: dict[int, float] = {}
    for row in rows:
        value = row.get("ap50") if row.get("split") == split else row.get(f"{split}_ap50")
        # a run with patience also logs the AP of the raw weights
        if value is not None and row.get("weights", "ema") == "ema":
            found[row["step"]] = value
    return sorted(found.items())


def running_mean(values: Sequence[float]) -> list[float]:
    """Exponential running mean over about a thirtieth of the run, without the bias of its start."""
    keep = 1 - 1 / max(2.0, len(values) / 30)
    means = []
    total = 0.0
    weight = 0.0
    for value in values:
        total, weight = keep * total + value, keep * weight + 1
        means.append(total / weight)
    return means
