"""Device times: CUDA events around calls in a row, or around replays of a graph of many calls."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

Call = Callable[[], Any]
CALLS_OF_A_GRAPH = 50


class NotCapturable(Exception):
    """CUDA or PyTorch refuses to capture a call; says why, in one line."""


def event_ms(call: Call, repeats: int) -> float:
    """Mean device time in ms of one of ``repeats`` calls in a row."""
    start = torch.cuda.Event(enable_timing=True)
    end = torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(repeats):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / repeats


def host_ms(call: Call, repeats: int) -> float:
    """The same by the host's clock, where there is no device."""
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    return 1e3 * (time.perf_counter() - started) / repeats


def captured(call: Call, calls: int = 1) -> Call:
    """``calls`` calls of ``call`` in a row as one CUDA graph.

    Raises :class:`NotCapturable` for what a stream refuses while it is captured. Any other error,
    such as memory that runs out or a kernel that fails, is raised as it is.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            for _ in range(calls):
                call()
    except RuntimeError as error:
        reason = capture_refusal(error)
        if reason is None:
            raise
        torch.cuda.synchronize()
        raise NotCapturable(reason) from error
    graph.replay()
    torch.cuda.synchronize()
    replay: Call = graph.replay
    return replay


def in_a_row(call: Call, calls: int = 1) -> Call:
    """What stands for :func:`captured` where there is no device: ``calls`` calls in a row."""

    def row() -> None:
        for _ in range(calls):
            call()

    return row


def capture_refusal(error: BaseException) -> str | None:
    """Why a capture was refused, None if ``error`` is about something else.

    The messages of CUDA's errors 900 to 908 and of PyTorch's own checks speak of capturing. The end
    of a spoiled capture is an error, too, whatever spoiled it: the first one of the chain decides.
    """
    chain: list[BaseException] = [error]
    while chain[-1].__context__ is not None:
        chain.append(chain[-1].__context__)
    first = next(found for found in reversed(chain) if isinstance(found, RuntimeError))
    line = next(iter(str(first).splitlines()), "")
    return line[:120] if "captur" in line.lower() else None


def graphs_of(
    calls: Mapping[str, Call],
    notes: list[str],
    what: str,
    size: int = CALLS_OF_A_GRAPH,
    capture: Callable[[Call, int], Call] = captured,
) -> dict[str, Call]:
    """The calls as CUDA graphs of ``size`` calls; of those that cannot be captured, ``notes`` say
    why.
    """
    found = {}
    for name, call in calls.items():
        try:
            found[name] = capture(call, size)
        except NotCapturable as error:
            notes.append(f"{what}: {name} cannot be captured ({error})")
    return found


def samples_ms(
    calls: Mapping[str, Call],
    measure: Callable[[Call, int], float],
    *,
    rounds: int,
    repeats: int,
    until_s: float | None = None,
) -> dict[str, list[float]]:
    """Samples by call, over rounds that run every call ``repeats`` times in a new random order; one
    more round before warms up, and rounds beyond the third end after ``until_s`` seconds.
    """
    order = random.Random(0)
    started = time.monotonic()
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        if until_s is not None and number > 3 and time.monotonic() - started > until_s:
            break
        for name in order.sample(list(calls), len(calls)):
            sample = measure(calls[name], repeats)
            if number:
                samples[name].append(sample)
    return samples


def medians(samples: Mapping[str, list[float]]) -> dict[str, float]:
    """Median of each call's samples."""
    return {name: statistics.median(times) for name, times in samples.items() if times}
