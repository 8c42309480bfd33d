"""The lines that a running benchmark shows: one per model, rewritten in place on a terminal, and
sparse plain lines where the output is a file or a pipe.
"""

from __future__ import annotations

import logging
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from tqdm import tqdm

from rfdetr_repro.bench.watching import State
from rfdetr_repro.records.record import Latency
from rfdetr_repro.spec import logs
from rfdetr_repro.spec.errors import shortened
from rfdetr_repro.spec.protocol import Protocol

log = logging.getLogger(__name__)

TERMINAL_S = 0.5  # seconds between two looks on a terminal
PLAIN_S = 30.0  # seconds between two looks in a file or a pipe
LEAST_NAME = 8  # characters of a model's name that stay, however narrow the terminal is


class _Line(tqdm):  # type: ignore[misc]
    """A line of tqdm without a thread that refreshes it: a measurement is not interrupted."""

    monitor_interval: ClassVar[int] = 0


class Live:
    """Shows a measurement of the models ``names``; the methods are those of
    :class:`rfdetr_repro.bench.watching.Report`.
    """

    def __init__(self, names: Sequence[str]) -> None:
        """Shows nothing yet; ``names`` give the numbers ``[1/2]``, ``[2/2]``."""
        self.names = list(names)
        self.done: list[str] = []  # what is finished, in words
        quiet = logs.is_quiet()
        self.on_terminal = sys.stderr.isatty() and not quiet
        self.plain = not quiet and not (self.on_terminal and sys.stdout.isatty())
        self.lines: dict[str, Any] = {}
        self.shown_at: float | None = None
        self.told_at: float | None = None

    # -- of a Report -------------------------------------------------------------------------------

    def images(self, name: str, split: str, indices: Iterable[int]) -> Iterable[int]:
        """``indices``, with their number and the time left."""
        return self._counted(name, indices, f"accuracy on {split}", "images")

    def rounds(self, name: str, rounds: Iterable[int]) -> Iterable[int]:
        """``rounds``, with their number and the time left."""
        return self._counted(name, rounds, "parts of the latency", "rounds")

    def opening(self, name: str) -> None:
        """Says that the model is opened and warmed up."""
        if name in self.names:
            self._on_terminal({name: "is opened and warmed up"})

    def due(self) -> bool:
        """Whether the terminal or the plain output should be told now."""
        return self._is_due()

    def show(self, states: Sequence[State]) -> None:
        """One line per unfinished model."""
        self._tell({state.name: told(state) for state in states})

    def finished(self, name: str, rules: Protocol, latency: Latency) -> None:
        """The model's line stays, with the result."""
        width = "no interval"
        if latency.ci_low_ms is not None and latency.ci_high_ms is not None:
            width = f"CI {percentage((latency.ci_high_ms - latency.ci_low_ms) / latency.median_ms)}"
        self.done.append(f"{name} ({rules.short})")
        self._finish(name, f"{_timed(rules, latency.median_ms)}, {width}, stored")

    def failed(self, name: str, reason: str) -> None:
        """The model's line stays, with the reason."""
        self._finish(name, f"failed: {reason}")

    def close(self) -> None:
        """Takes lines of unfinished models off the terminal."""
        for line in self.lines.values():
            line.leave = False
            line.close()
        if self.lines:  # what follows begins at the left
            sys.stderr.write("\r")
            sys.stderr.flush()
        self.lines.clear()

    def _counted(self, name: str, items: Iterable[int], what: str, unit: str) -> Iterable[int]:
        """``items``, between which a line says how many of them are done."""
        wanted = list(items)
        start = time.monotonic()
        for count, item in enumerate(wanted):
            if self._is_due():
                spent_s = time.monotonic() - start
                left = spent_s / count * (len(wanted) - count) if count else None
                self._tell({name: f"{what}, {count}/{len(wanted)} {unit}{_left(left)}"})
            yield item
        self._finish(name, f"{what}, {len(wanted)} {unit}, {_clock(start)}")

    # -- writing -----------------------------------------------------------------------------------

    def _is_due(self) -> bool:
        now = time.monotonic()
        on_terminal = self.on_terminal and (
            self.shown_at is None or now - self.shown_at >= TERMINAL_S
        )
        return on_terminal or self._plain_is_due(now)

    def _plain_is_due(self, now: float) -> bool:
        return self.plain and (self.told_at is None or now - self.told_at >= PLAIN_S)

    def _tell(self, texts: dict[str, str]) -> None:
        # the second measurement of a model (A/A) has no line of its own
        texts = {name: text for name, text in texts.items() if name in self.names}
        now = time.monotonic()
        if self._plain_is_due(now):
            for name, text in texts.items():
                log.info(self._fitted(name, text, None))
            self.told_at = now
        self._on_terminal(texts)

    def _on_terminal(self, texts: dict[str, str]) -> None:
        if not self.on_terminal:
            return
        self.shown_at = time.monotonic()
        for name, text in texts.items():
            if name not in self.lines:
                self.lines[name] = _Line(
                    bar_format="{desc}", file=sys.stderr, dynamic_ncols=True, leave=True
                )
            columns = _columns()
            # spaces to the end, over what stood there before
            line = self._fitted(name, text, columns).ljust(columns)
            self.lines[name].set_description_str(line)

    def _finish(self, name: str, text: str) -> None:
        if name not in self.names:
            return
        if self.plain:
            log.info(self._fitted(name, text, None))
        if self.on_terminal:
            self._on_terminal({name: text})
            self.lines.pop(name).close()

    def _fitted(self, name: str, text: str, columns: int | None) -> str:
        """The line within ``columns`` characters: the name is shortened first, then the end."""
        number = f"[{self.names.index(name) + 1}/{len(self.names)}] " if name in self.names else ""
        if columns is not None:
            room = columns - len(number) - len(text) - 2
            name = shortened(name, max(LEAST_NAME, room), tail=3)
        line = f"{number}{name}  {text}"
        return line if columns is None or len(line) <= columns else f"{line[: columns - 3]}..."


def told(state: State) -> str:
    """The state in words, such as "buffered 56.7 ms, CI 9 % -> 0.5 %, 01:12 left"."""
    if state.median_ms is None:
        return f"{state.rules.short}, no sample yet{_left(state.left_s)}"
    parts = [_timed(state.rules, state.median_ms)]
    by_width = state.rules.min_time_s == 0 and state.rules.mode != "paced"
    if by_width and not state.rules.quick:
        width = "unknown" if state.width is None else percentage(state.width)
        parts.append(f"CI {width} -> {percentage(state.rules.relative_ci)}")
    elif state.width is not None:
        parts.append(f"CI {percentage(state.width)}")
    return ", ".join(parts) + _left(state.left_s)


def _timed(rules: Protocol, ms: float) -> str:
    """Mode and median, such as "buffered 56.7 ms" or "buffered 5 ms, quick: 56.7 ms"."""
    return f"{rules.short}{'' if rules.short == rules.mode else ':'} {milliseconds(ms)} ms"


def milliseconds(value: float) -> str:
    """Three digits, or whole numbers from 1,000 on: 0.0512, 5.12, 51.2, 512, 5120."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def percentage(fraction: float) -> str:
    """Of two digits at most: 0.5 %, 9 %, 45 %, 120 %."""
    points = 100 * fraction
    return f"{points:.0f} %" if points >= 9.5 else f"{points:.1g} %"


def _left(seconds: float | None) -> str:
    if seconds is None:
        return ""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    minutes = f"{rest // 60:02}:{rest % 60:02}"
    return f", {f'{hours}:' if hours else ''}{minutes} left"


def _clock(start: float) -> str:
    return _left(time.monotonic() - start).removeprefix(", ").removesuffix(" left")


def _columns() -> int:
    """Width of the terminal, less the last column, in which some terminals begin a new line."""
    return shutil.get_terminal_size().columns - 1
