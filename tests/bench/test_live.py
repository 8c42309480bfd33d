"""The lines of a running benchmark: what they say, that they never break, that they are written
between two rounds only, and what an interrupted run leaves.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from samples_bench import Bench
from samples_export import ARCH, meta, tiny_detector

from rfdetr_repro.bench.command import live as module
from rfdetr_repro.bench.command.live import Live, milliseconds, percentage, told
from rfdetr_repro.bench.interleaved import BLOCK, measure_interleaved
from rfdetr_repro.bench.watching import Silent, State, states_of
from rfdetr_repro.export.onnx.exporter import export_onnx
from rfdetr_repro.records.record import Latency
from rfdetr_repro.records.store import Store
from rfdetr_repro.spec.protocol import Protocol

ROOT = Path(__file__).resolve().parents[2]
RULES = Protocol(threads=1)


@pytest.mark.parametrize(
    ("state", "line"),
    [
        (State("m", RULES, 56.7123, 0.0912, 72.0), "buffered 56.7 ms, CI 9 % -> 0.5 %, 01:12 left"),
        (
            State("m", RULES, 0.05121, None, 3725.0),
            "buffered 0.0512 ms, CI unknown -> 0.5 %, 1:02:05 left",
        ),
        (State("m", RULES, None, None, None), "buffered, no sample yet"),
        (
            State("m", replace(RULES, mode="sustained", buffer_ms=0.0, batch=8), 512.3, 0.45, 0.2),
            "sustained, batch 8: 512 ms, CI 45 % -> 0.5 %, 00:00 left",
        ),
        (
            State("m", replace(RULES, quick=True), 5.0, 1.2, None),
            "buffered, quick: 5 ms, CI 120 %",
        ),
        (
            State("m", replace(RULES, mode="sustained", min_time_s=9.0), 5.0, 0.01, 8.6),
            "sustained 5 ms, CI 1 %, 00:09 left",
        ),
    ],
)
def test_a_state_in_words(state: State, line: str) -> None:
    assert told(state) == line


def test_numbers_have_few_digits() -> None:
    values = [0.00512, 5.119, 51.19, 511.9, 5119.0]
    assert [milliseconds(one) for one in values] == ["0.00512", "5.12", "51.2", "512", "5119"]
    assert [percentage(one) for one in (0.005, 0.0949, 0.096, 0.45)] == [
        "0.5 %",
        "9 %",
        "10 %",
        "45 %",
    ]


class Watcher(Silent):
    """Keeps the states, and how many calls had run when they were shown."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.shown = bench, list[tuple[int, list[State]]]()

    def due(self) -> bool:
        return True

    def show(self, states: Any) -> None:
        self.shown.append((len(self.bench.log), list(states)))


def test_states_are_shown_between_rounds_only() -> None:
    bench = Bench()
    models = {name: bench.model(name, lambda number: 1.0 + number % 3 / 10) for name in "ab"}
    rules = Protocol(
        mode="sustained", warmup=2, min_samples=64, max_samples=64, relative_ci=1e-9, timeout_s=1e6
    )
    watcher = Watcher(bench)
    measure_interleaved(models, rules, clock=bench, report=watcher)
    warm, block = 2 * rules.warmup, 2 * (BLOCK + 1)  # a block begins with an untimed run
    calls = [count for count, _ in watcher.shown]
    assert calls == [warm + block * number for number in range(1, len(calls) + 1)]
    assert len(calls) == 64 // BLOCK - 1, "after the last round nothing is unfinished"
    assert all([state.name for state in states] == ["a", "b"] for _, states in watcher.shown)


def test_the_time_left_is_that_of_the_rounds_left() -> None:
    """Two models of 1 and 3 ms without any spread end after 8 more rounds of 8 samples each."""
    bench = Bench()
    models = {
        "a": bench.model("a", lambda number: 1.0 + number % 2 / 1e3),
        "b": bench.model("b", lambda number: 3.0 + number % 2 / 1e3),
    }
    rules = Protocol(
        mode="sustained", warmup=0, min_samples=128, max_samples=128, relative_ci=0, timeout_s=1e6
    )
    watcher = Watcher(bench)
    measure_interleaved(models, rules, clock=bench, report=watcher)
    _, half = watcher.shown[7]
    assert [state.median_ms for state in half] == pytest.approx([1.0005, 3.0005], rel=1e-3)
    for state in half:  # the untimed run of each block counts too
        assert state.left_s == pytest.approx(8 * (BLOCK + 1) * 4e-3, rel=0.02)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


NAME = "a-detector-with-a-very-long-name-that-somebody-gave-to-a-file-on-a-long-day-in-november"


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_a_line_fits_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(module, "TERMINAL_S", 0.0)
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = Live([NAME, "b"])
    shown.show([State(NAME, RULES, 56.7, 0.09, 72.0), State("b", RULES, 5.6, 0.01, 7.0)])
    shown.finished(NAME, RULES, Latency(56.7, ci_low_ms=56.0, ci_high_ms=57.0))
    shown.failed("b", "the file does not run, for a reason that takes many words to tell" * 3)
    shown.close()
    written = re.split(r"[\r\n]|\x1b\[[0-9]*[A-Z]", terminal.getvalue())
    assert max(len(line) for line in written) < columns
    text = "\n".join(written)
    assert "[1/2] a" in text and "[2/2] b" in text
    if columns >= 80:
        assert "56.7 ms, CI 9 % -> 0.5 %, 01:12 left" in text, "the name gives way, not a number"
        assert "buffered 56.7 ms, CI 2 %, stored" in text


def test_plain_lines_are_sparse(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    caplog.set_level("INFO", logger="rfdetr_repro")
    shown = Live(["a"])
    told_at = []
    for second in range(100):
        now[0] = float(second)
        if shown.due():
            told_at.append(second)
            shown.show([State("a", RULES, 1.0, 0.1, 5.0)])
    assert told_at == [0, 30, 60, 90]
    assert caplog.messages == ["[1/1] a  buffered 1 ms, CI 10 % -> 0.5 %, 00:05 left"] * 4


def test_images_are_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    caplog.set_level("INFO", logger="rfdetr_repro")
    shown = Live(["a", "b"])
    seen = []
    for index in shown.images("b", "val", range(40)):
        seen.append(index)
        now[0] += 2.0
    assert seen == list(range(40))
    assert "[2/2] b  accuracy on val, 15/40 images, 00:50 left" in caplog.messages
    assert caplog.messages[-1] == "[2/2] b  accuracy on val, 40 images, 01:20"


# -- the command -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("files")
    return [
        export_onnx(
            tiny_detector(seed).slice(ARCH), folder / f"m{seed}.onnx", meta=meta("random")
        ).path
        for seed in range(2)
    ]


def command(files: list[Path], out: Path, *more: str) -> list[str]:
    program = [sys.executable, "-m", "rfdetr_repro.bench", "--onnx"]
    names = [f"model-{index}={file}" for index, file in enumerate(files)]
    return [*program, *names, "--threads", "1", "--out", str(out), *more]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def on_terminal(arguments: list[str], columns: int) -> tuple[int, str]:
    """Exit code and output of a program whose output is a terminal of this width."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {key: value for key, value in ENVIRONMENT.items() if key != "COLUMNS"}
    program = subprocess.Popen(
        arguments, stdin=slave, stdout=slave, stderr=slave, env=environment, close_fds=True
    )
    os.close(slave)
    parts = []
    while True:
        try:
            part = os.read(master, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        parts.append(part)
    os.close(master)
    return program.wait(timeout=60), b"".join(parts).decode()


@pytest.mark.parametrize("columns", [80, 120])
def test_on_a_terminal(columns: int, files: list[Path], tmp_path: Path) -> None:
    arguments = command(files, tmp_path / "s.jsonl", "--quick", "--buffer-ms", "5")
    code, output = on_terminal(arguments, columns)
    assert code == 0, output
    lines = re.split(r"[\r\n]+|\x1b\[[0-9]*[A-Z]", output)
    live = [line for line in lines if re.match(r"\[\d/2\] model-", line)]
    assert live and max(map(len, live)) < columns
    assert any(line.rstrip().endswith("stored") for line in live)
    table = [line for line in lines if line.startswith(("model  ", "model-"))]
    assert max(map(len, table)) <= columns
    assert "buffered 5 ms, quick" in table[1]
    assert "next: run the command again without --quick" in output


def stored(path: Path) -> list[str]:
    return sorted(f"{r.model.name} {r.protocol.mode}" for r in Store(path).read() if r.latency)


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.parity), signal.SIGKILL],
)
def test_an_interrupted_run_keeps_what_is_finished(
    number: signal.Signals, files: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "s.jsonl"
    first = ["--buffer-ms", "0", "--samples", "32", "--builds", "1", "--no-twice"]
    both = [*first, "--protocol", "both", "--seconds", "600"]
    with (tmp_path / "printed.txt").open("w") as printed:
        program = subprocess.Popen(
            command(files, out, *both),
            env=ENVIRONMENT,
            stdout=printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and not (out.exists() and len(stored(out)) == 2):
            time.sleep(0.2)
        time.sleep(0.5)  # well inside the second mode
        program.send_signal(number)
        code = program.wait(timeout=60)
    output = (tmp_path / "printed.txt").read_text()
    finished = ["model-0 buffered", "model-1 buffered"]
    assert stored(out) == finished, output
    if number != signal.SIGKILL:
        assert code == 128 + number
        assert f"finished and stored in {out}: " in output and "model-0 (buffered 0 ms)" in output
        assert "run the same command again to continue" in output
    again = subprocess.run(
        command(files, out, *first, "--protocol", "both"),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert again.returncode == 0, again.stderr
    assert "buffered 0 ms: " not in again.stdout.split("model  ")[0], "measured again"
    assert stored(out) == sorted([*finished, "model-0 sustained", "model-1 sustained"])


def test_states_without_rounds() -> None:
    assert states_of({}, 0) == []
