"""What a training run prints while it works: a table with a line every few steps, a line for every
evaluation with the best marked, and on a terminal also a bar with the time that is left.

    step   of  epoch   loss  class     l1   giou      lr  img/s   mem    left
       8  400    0.5   9.81   1.32   4.61   3.88  3.2e-5   11.2  0.9G    5m48

The table fits the terminal: where a terminal is too narrow, columns are left out in the order of
:data:`DROPPED`.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tqdm import tqdm

from rfdetr_repro.spec import logs
from rfdetr_repro.spec.metrics import percent
from rfdetr_repro.spec.stage import Stage

from .best import CHOOSING_SPLIT, choosing_ap
from .callbacks import (
    TrainingCallback,
    TrainingEnd,
    TrainingEvaluation,
    TrainingStart,
    TrainingStep,
)

log = logging.getLogger(__name__)

NARROW = 80  # columns where the output is not a terminal
ROWS = 20  # lines of a whole run, at least
LONGEST_PAUSE_S = 300.0  # between two lines
HEAD_EVERY = 20  # lines
# columns in the order in which a narrow terminal leaves them out
DROPPED = ("epoch", "of", "mem", "img/s", "lr")
_MEANINGS = {
    "class": "class",
    "l1": "l1 and giou (boxes)",
    "mask_bce": "bce and dice (masks)",
    "dense": "dense (auxiliary)",
    "sides": "sides (distributions)",
}
HEADS = {"mask_bce": "bce", "mask_dice": "dice"}
_BOLD = "\x1b[1m"
_GREEN = "\x1b[32m"
_PLAIN = "\x1b[0m"
_GIB = 2**30


class TrainingDisplay(TrainingCallback):
    """Prints through the library's logger; nothing where a command is quiet."""

    def __init__(
        self,
        stage: Stage | None = None,
        clock: Callable[[], float] = time.monotonic,
        evaluated: bool = True,
    ) -> None:
        """``stage``: where the training stands in a longer flow; ``clock``: seconds; ``evaluated``:
        whether the run has splits to evaluate on.
        """
        self._evaluated = evaluated
        self._stage = stage
        self._clock = clock
        self._bar: tqdm[Any] | None = None
        self._columns: list[str] = []
        self._rows = 0
        self._window = _Window()
        self._speed = _Speed()
        self._best: tuple[float, int, str] | None = None  # AP, step, weights
        self._last_line_at = 0.0
        self._evaluations_left: Callable[[int], int] = lambda step: 0

    # -- events ------------------------------------------------------------------------------------

    def on_start(self, start: TrainingStart) -> None:
        """Says what will be done, and shows the bar on a terminal."""
        for line in self._opening(start):
            log.info(line)
        every = int(start.settings.get("evaluate_every", 0))
        last = 1 if not every or start.steps % every else 0  # the evaluation at the end
        self._evaluations_left = lambda step: (
            (start.steps // every - step // every if every else 0) + last
        )
        for row in start.history:
            if "ap" in row and row.get("split") == CHOOSING_SPLIT:
                self._consider(int(row["step"]), {str(row.get("weights", "ema")): [row]})
        hidden = logs.is_quiet() or not sys.stderr.isatty()
        self._bar = tqdm(
            total=start.steps,
            initial=start.step,
            desc="training" if self._stage is None else f"{self._stage.short} training",
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} steps{postfix}",
            dynamic_ncols=True,
            mininterval=1.0,
            disable=hidden,
        )
        self._last_line_at = self._clock()

    def on_step(self, step: TrainingStep) -> None:
        """Moves the bar, and prints a line where one is due."""
        self._speed.step(step.seconds)
        self._window.add(step)
        if self._bar is not None:
            self._bar.set_postfix_str(self._left_words(step.step, step.steps), refresh=False)
            self._bar.update(step.step - self._bar.n)
        if self._is_due(step):
            self._print(step)

    def on_evaluation(self, evaluation: TrainingEvaluation) -> None:
        """Prints the accuracy of each split, with the best val AP marked."""
        self._speed.evaluation(evaluation.seconds)
        is_best = self._consider(evaluation.step, evaluation.rows)
        for line in self._accuracies(evaluation, is_best):
            log.info(line)

    def on_end(self, end: TrainingEnd) -> None:
        """Ends the bar and repeats the best evaluation."""
        if self._bar is not None:
            self._bar.close()
        if self._best is not None and end.outcome in ("complete", "stopped early"):
            ap, step, weights = self._best
            log.info(
                f"best val AP {percent(ap)} at step {step} ({_weights(weights)} weights); "
                f"{end.outcome} after {end.step} steps"
            )

    # -- lines -------------------------------------------------------------------------------------

    def _opening(self, start: TrainingStart) -> list[str]:
        images = start.steps * start.images_per_step
        epochs = images / max(1, start.images)
        told = [
            f"training: {start.steps} steps of {start.images_per_step} images, which is "
            f"{epochs:.1f} epochs of {start.images} images"
        ]
        if self._stage is not None:
            told.append("left: time of this stage; all: of all stages, estimated")
        if start.step:
            told.append(f"continuing after step {start.step} of {start.steps}")
        if frozen := start.settings.get("freeze"):
            told.append(f"frozen, so unchanged: {', '.join(frozen)}")
        if not self._evaluated:
            return [*told, "no evaluation during the training"]
        every = start.settings.get("evaluate_every", 0)
        told.append(
            f"evaluation every {every} steps and at the end" if every else "evaluation at the end"
        )
        return told

    def _is_due(self, step: TrainingStep) -> bool:
        """After the first step of a session, twenty times in a run, and every five minutes."""
        every = max(1, step.steps // ROWS)
        return (
            self._rows == 0
            or step.step % every == 0
            or step.step == step.steps
            or self._clock() - self._last_line_at >= LONGEST_PAUSE_S
        )

    def _print(self, step: TrainingStep) -> None:
        cells = self._cells(step)
        if not self._columns or self._rows % HEAD_EVERY == 0:
            if not self._columns:
                log.info(_legend(self._window.means()))
            self._columns = fitting(cells, _width())
            heads = {name: name.rjust(len(cell)) for name, cell in cells.items()}
            log.info(_styled(_line(self._columns, heads), _BOLD))
        log.info(_line(self._columns, cells))
        self._rows += 1
        self._window = _Window()
        self._last_line_at = self._clock()

    def _cells(self, step: TrainingStep) -> dict[str, str]:
        """Column -> text of one line."""
        losses = self._window.means()
        left = self._left_s(step.step, step.steps)
        cells = {
            "step": str(step.step).rjust(len(str(step.steps))),
            "of": str(step.steps),
            "epoch": f"{step.epoch:.1f}".rjust(len(f"{step.epoch * step.steps / step.step:.1f}")),
            **{HEADS.get(name, name): number(value) for name, value in losses.items()},
            "lr": f"{step.lr:.1e}".replace("e-0", "e-"),
            "img/s": number(self._window.images / max(self._window.seconds, 1e-9)),
            "mem": f"{step.memory_bytes / _GIB:.1f}G",
            "left": duration(left),
        }
        if self._stage is None:
            return cells
        everything = self._stage.all_left_s(left, self._speed.per_step)
        return {
            "stage": f"{self._stage.number}/{self._stage.of}",
            **cells,
            "all": duration(everything),
        }

    def _left_s(self, step: int, steps: int) -> float | None:
        return self._speed.left(steps - step, self._evaluations_left(step))

    def _left_words(self, step: int, steps: int) -> str:
        left = self._left_s(step, steps)
        words = f"{duration(left)} left"
        if self._stage is not None:
            everything = self._stage.all_left_s(left, self._speed.per_step)
            words += f", all stages {duration(everything)}"
        return words

    def _accuracies(self, evaluation: TrainingEvaluation, is_best: bool) -> list[str]:
        lines = []
        for weights, rows in evaluation.rows.items():
            for row in rows:
                numbers = ", ".join(
                    f"{title} {percent(row.get(name), absent='unknown')}"
                    for name, title in (("ap", "AP"), ("ap50", "AP50"), ("mask_ap", "mask AP"))
                    if name in row and (name != "mask_ap" or row[name] is not None)
                )
                lines.append(
                    f"step {evaluation.step}: {row['split']} {numbers} ({_weights(weights)} "
                    f"weights){self._mark(evaluation.step, weights, str(row['split']), is_best)}"
                )
        return lines

    def _mark(self, step: int, weights: str, split: str, is_best: bool) -> str:
        if split != CHOOSING_SPLIT or self._best is None:
            return ""
        ap, best_step, best_weights = self._best
        if is_best and weights == best_weights:
            return _styled("  * best so far", _GREEN)
        if best_step == step:
            return ""
        return f"  (best: {percent(ap)} at step {best_step})"

    def _consider(self, step: int, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> bool:
        """Whether an evaluation holds a new best val AP, which is kept."""
        better = False
        for weights, found in rows.items():
            ap = choosing_ap(found)
            if ap is not None and (self._best is None or ap > self._best[0]):
                self._best = (ap, step, weights)
                better = True
        return better


class _Window:
    """Steps since the last line."""

    def __init__(self) -> None:
        self.images = 0
        self.seconds = 0.0
        # read when a line is printed: on a GPU, reading waits for the step
        self._losses: list[Mapping[str, float]] = []

    def add(self, step: TrainingStep) -> None:
        self.images += step.images
        self.seconds += step.seconds
        self._losses.append(step.losses)

    def means(self) -> dict[str, float]:
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        for losses in self._losses:
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value
                counts[name] = counts.get(name, 0) + 1
        return {name: total / counts[name] for name, total in sums.items()}


class _Speed:
    """Mean times of this session: of steps, without the first, which also warms up, and of
    evaluations.
    """

    def __init__(self) -> None:
        self._first = 0.0
        self._steps = 0
        self._seconds = 0.0
        self._evaluations = 0
        self._evaluation_s = 0.0

    def step(self, seconds: float) -> None:
        self._steps += 1
        if self._steps == 1:
            self._first = seconds
        else:
            self._seconds += seconds

    def evaluation(self, seconds: float) -> None:
        self._evaluations += 1
        self._evaluation_s += seconds

    @property
    def per_step(self) -> float | None:
        """Seconds of a step; None before the first step."""
        if not self._steps:
            return None
        return self._seconds / (self._steps - 1) if self._steps > 1 else self._first

    def left(self, steps: int, evaluations: int) -> float | None:
        """Seconds for so many steps and evaluations; None before the first step. An evaluation
        counts from the first one on.
        """
        per_step = self.per_step
        if per_step is None:
            return None
        per_evaluation = self._evaluation_s / self._evaluations if self._evaluations else 0.0
        return steps * per_step + evaluations * per_evaluation


def number(value: float) -> str:
    """A number in four characters where that is possible, such as 0.12, 12.3, 123 or 1e+5."""
    if abs(value) < 9.995:
        return f"{value:.2f}"
    if abs(value) < 99.95:
        return f"{value:.1f}"
    return f"{value:.0f}" if abs(value) < 9999.5 else f"{value:.0e}".replace("e+0", "e+")


def duration(seconds: float | None) -> str:
    """A duration in five characters, such as 48s, 5m48, 2h05 or 3d04; "?" where it is not known."""
    if seconds is None:
        return "?"
    whole = round(seconds)
    for unit, size, below in (("d", 86400, 3600), ("h", 3600, 60), ("m", 60, 1)):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // below:02d}"
    return f"{whole}s"


def fitting(cells: Mapping[str, str], width: int) -> list[str]:
    """The columns that fit into ``width`` characters, see :data:`DROPPED`."""
    columns = list(cells)
    for name in DROPPED:
        if len(_line(columns, cells)) <= width:
            break
        columns = [column for column in columns if column != name]
    return columns


# characters of a column, for numbers that grow during the run
_WIDEST = {"step": 4, "of": 4, "epoch": 5, "lr": 6, "img/s": 5, "mem": 5, "left": 5, "all": 5}


def _line(columns: Sequence[str], cells: Mapping[str, str]) -> str:
    return " ".join(
        cells.get(name, "-").rjust(max(len(name), _WIDEST.get(name, 4))) for name in columns
    )


def _legend(losses: Mapping[str, float]) -> str:
    parts = [text for name, text in _MEANINGS.items() if name in losses]
    return (
        f"loss = {' + '.join(parts)},\n"
        f"weighted; means since the previous line. lr: of the heads; mem: most so far"
    )


def _weights(name: str) -> str:
    return {"ema": "averaged"}.get(name, name)


def _width() -> int:
    """Columns of the output: of the terminal, or as COLUMNS says, else NARROW."""
    if sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit():
        return shutil.get_terminal_size((NARROW, 24)).columns
    return NARROW


def _styled(text: str, code: str) -> str:
    """The text in colour, where a command prints to a terminal and NO_COLOR is not set."""
    colour = logs.is_shown() and sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    return f"{code}{text}{_PLAIN}" if colour and os.environ.get("TERM") != "dumb" else text
