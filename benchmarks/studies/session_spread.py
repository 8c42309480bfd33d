"""How much the latency of one file differs between sessions of one process, and between processes.

Every process opens the same file several times. All sessions are timed in turns, in blocks, in a
new random order in every round, so that the state of the machine is the same for all; what remains
is where a process and a session have their memory. Standard deviations are those of an analysis of
variance of two levels over the logarithms of the sessions' medians.

    python -m benchmarks.studies.session_spread [MODEL.onnx ...] [--processes 6] [--sessions 3]

Without files, the pico architecture with random weights is exported and measured.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

from benchmarks.subjects import pico_artifact
from rfdetr_repro.export.artifact import Artifact, load_artifact
from rfdetr_repro.spec.errors import run_main

BLOCK = 8  # neighbouring samples of a session; the value of a block is their median
UNTIMED = 2  # runs before a block, after which the caches hold the session's data


class Spread(NamedTuple):
    """Standard deviations in % of the median, each with its 95 % interval."""

    between_processes: tuple[float, float, float]
    between_sessions: tuple[float, float, float]


def spread_of(medians_ms: np.ndarray) -> Spread:
    """Of medians in ms, float (processes, sessions), at least 2 of each.

    The mean of a process holds the differences between its sessions too; they are subtracted, and
    what is below zero is zero. The interval between processes is that of Williams and Tukey.
    """
    logs = np.log(medians_ms)
    processes, sessions = logs.shape
    above, below = processes - 1, processes * (sessions - 1)
    between = sessions * float(np.var(logs.mean(axis=1), ddof=1))  # mean squares
    within = float(np.var(logs, axis=1, ddof=1).mean())
    low_f, high_f = (stats.f.ppf(part, above, below) for part in (0.975, 0.025))
    low, high = (
        (between - within * f) / (sessions * stats.chi2.ppf(part, above) / above)
        for f, part in ((low_f, 0.975), (high_f, 0.025))
    )
    estimated = (between - within) / sessions
    bounds = (within * below / stats.chi2.ppf(part, below) for part in (0.975, 0.025))
    return Spread(_percent(estimated, low, high), _percent(within, *bounds))


def _percent(*variances: float) -> tuple[float, float, float]:
    first, low, high = (100 * float(np.sqrt(max(part, 0.0))) for part in variances)
    return first, low, high


def _serve(artifact: Artifact, sessions: int, requests: Connection) -> None:
    """A process: opens the sessions, and times a block of the session that is asked for."""
    from rfdetr_repro.bench.scopes import example_input, timed_call
    from rfdetr_repro.runtime.session import OrtSession

    opened = [OrtSession(artifact, 1) for _ in range(sessions)]
    for session in opened:
        session.run(example_input(session, None))
    calls = [timed_call(session, "engine", None, 1) for session in opened]
    requests.send(None)
    while (number := requests.recv()) is not None:
        for _ in range(UNTIMED):
            calls[number]()
        times = []
        for _ in range(BLOCK):
            started = time.perf_counter()
            calls[number]()
            times.append(time.perf_counter() - started)
        requests.send(1e3 * float(np.median(times)))


def measure(artifact: Artifact, processes: int, sessions: int, rounds: int) -> np.ndarray:
    """Medians in ms (processes, sessions) over the blocks of all rounds."""
    context = multiprocessing.get_context("spawn")
    order = [(process, session) for process in range(processes) for session in range(sessions)]
    found = np.empty((rounds, processes, sessions))
    rng = random.Random(0)
    with ExitStack() as stack:
        ends = []
        for _ in range(processes):  # one after the other, so that none is opened beside another
            end, other = context.Pipe()
            process = context.Process(target=_serve, args=(artifact, sessions, other), daemon=True)
            process.start()
            stack.callback(process.join)
            stack.callback(end.send, None)
            end.recv()
            ends.append(end)
        for number in range(rounds):
            rng.shuffle(order)
            for process, session in order:
                ends[process].send(session)
                found[number, process, session] = ends[process].recv()
    medians: np.ndarray = np.median(found, axis=0)
    return medians


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a row for each file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", type=Path, help="artifacts of this project")
    parser.add_argument("--processes", type=int, default=6, help="processes of a file (default 6)")
    parser.add_argument("--sessions", type=int, default=3, help="sessions of each (default 3)")
    parser.add_argument("--rounds", type=int, default=60, help="blocks of each (default 60)")
    args = parser.parse_args(argv)
    if min(args.processes, args.sessions) < 2 or args.rounds < 1:
        parser.error("two processes with two sessions each, and one round, are the least")
    with tempfile.TemporaryDirectory() as folder:
        artifacts = [load_artifact(path) for path in args.models] or [pico_artifact(Path(folder))]
        print("| file | median ms | between processes | between sessions of a process |")
        print("|---|---|---|---|")
        for artifact in artifacts:
            medians = measure(artifact, args.processes, args.sessions, args.rounds)
            cells = [
                f"{found:.2f} % ({low:.2f} to {high:.2f})"
                for found, low, high in spread_of(medians)
            ]
            name = artifact.manifest.model.name
            print(f"| {name} | {np.median(medians):.2f} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    raise SystemExit(run_main(main))
