"""The ways that the attention kernels can take, against each other: does the host choose the
fastest, and do all compute the same?

``RFDETR_CUDA_PATH`` forces a way (docs/method/kernels.md, section 5). Graphs of 50 calls, in turns.
A way whose result differs from that of ``grid_sample`` in float64 fails the step at its end.
Without a GPU all ways are the CPU kernels.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from benchmarks.gpu_steps.operators import (
    AGREEMENT,
    CASES,
    DTYPES,
    TOY,
    Inputs,
    difference,
    exact_of,
    works,
)
from benchmarks.gpu_steps.step import Step
from benchmarks.gpu_steps.timing import (
    CALLS_OF_A_GRAPH,
    NotCapturable,
    captured,
    event_ms,
    host_ms,
    in_a_row,
    medians,
    samples_ms,
)
from rfdetr_repro.records.record import Latency, ModelId
from rfdetr_repro.spec.protocol import Protocol

VARIABLE = "RFDETR_CUDA_PATH"
CHOSEN = "chosen"  # by the host
GRADIENT = (CHOSEN, "sorted-1", "sorted-2", "direct")
FORWARD = (CHOSEN, "staged", "direct")
WANTED = (  # work, case, type, ways
    ("backward", "b16-q3900-24x24", "float32", GRADIENT),
    ("forward", "b16-q3900-24x24", "float32", FORWARD),
    ("backward", "b16-q3900-36x36", "float32", GRADIENT),
    ("backward", "b4-q3900-36x36", "float32", GRADIENT),
    ("backward", "b4-q3900-3levels", "float32", GRADIENT),
    ("backward", "b16-q3900-24x24", "bfloat16", GRADIENT),
    ("backward", "b16-q300-24x24", "float32", GRADIENT),
    ("forward", "b16-q3900-24x24", "bfloat16", FORWARD),
)


@contextmanager
def forced(way: str) -> Iterator[None]:
    """The calls inside take this way; what the environment asked for is restored."""
    given = os.environ.pop(VARIABLE, None)
    if way != CHOSEN:
        os.environ[VARIABLE] = way
    try:
        yield
    finally:
        os.environ.pop(VARIABLE, None)
        if given is not None:
            os.environ[VARIABLE] = given


def compare(step: Step, work: str, case: str, dtype: str, ways: tuple[str, ...]) -> None:
    """Times the ways of one call in turns, as Records and as a line in microseconds."""
    name = next(iter(TOY)) if step.toy else case
    inputs = Inputs.of((TOY if step.toy else CASES)[name], DTYPES[dtype], step.device)
    call = works(inputs, None)[work]["ours"]
    exact = exact_of(inputs, [work])[work]
    what = f"{work} {name} {dtype}"
    size = CALLS_OF_A_GRAPH if step.on_gpu else 2
    capture = captured if step.on_gpu else in_a_row
    graphs = {}
    gaps = {}
    for way in ways:
        with forced(way):
            try:
                gaps[way] = difference(call(), exact)
                graphs[way] = capture(call, size)
            except (RuntimeError, NotCapturable) as error:
                step.wrong(f"{what} {way}: {str(error).splitlines()[0][:120]}")
                continue
        if not gaps[way] <= AGREEMENT[DTYPES[dtype]]:
            step.wrong(f"{what} {way}: relative difference from grid_sample {gaps[way]:.1e}")
    measure = event_ms if step.on_gpu else host_ms
    rounds = 2 if step.toy else 8
    samples = samples_ms(graphs, measure, rounds=rounds, repeats=1, until_s=1.0)
    times = {way: ms / size for way, ms in medians(samples).items()}
    for way, ms in times.items():
        count = len(samples[way])
        step.record(
            ModelId("operator", f"{what} graph", variant=f"path {way}", weights="random"),
            Latency(ms, num_samples=count, cuda_graph=step.on_gpu),
            Protocol("sustained", "device", 0.0, min_samples=count, max_samples=count, threads=1),
            agreement=f"relative difference from grid_sample in float64 {gaps[way]:.1e}",
        )
    step.say(f"{what}: " + ", ".join(f"{way} {1e3 * ms:.2f}" for way, ms in times.items()) + " us")


def main() -> None:
    """All of them, as far as the time goes."""
    step = Step.of("paths", __doc__)
    torch.manual_seed(0)
    for work, case, dtype, ways in WANTED[:2] if step.toy else WANTED:
        if step.left_s < 2:
            step.say(f"{work} {case} {dtype}: left out, the step's time is over")
            continue
        compare(step, work, case, dtype, ways)
    step.end()


if __name__ == "__main__":
    main()
