"""The ways that the attention kernels can take, against each other: does the host choose the
fastest?

``RFDETR_CUDA_PATH`` forces a way (docs/method/kernels.md, section 5). Graphs of 50 calls, in turns.
"""

from __future__ import annotations

import os

import torch

from benchmarks.gpu_steps.operators import CASES, DTYPES, TOY, Inputs, works
from benchmarks.gpu_steps.step import Step
from benchmarks.gpu_steps.timing import (
    CALLS_OF_A_GRAPH,
    captured,
    event_ms,
    host_ms,
    medians,
    samples_ms,
)

VARIABLE = "RFDETR_CUDA_PATH"
CHOSEN = "chosen"  # by the host
GRADIENT = (CHOSEN, "sorted-1", "sorted-2", "direct")
WANTED = (  # work, case, type, ways
    ("backward", "b16-q3900-24x24", "float32", GRADIENT),
    ("backward", "b16-q3900-36x36", "float32", GRADIENT),
    ("backward", "b4-q3900-36x36", "float32", GRADIENT),
    ("backward", "b4-q3900-3levels", "float32", GRADIENT),
    ("backward", "b16-q3900-24x24", "bfloat16", GRADIENT),
    ("backward", "b16-q300-24x24", "float32", GRADIENT),
    ("forward", "b16-q3900-24x24", "float32", (CHOSEN, "staged", "direct")),
    ("forward", "b16-q3900-24x24", "bfloat16", (CHOSEN, "staged", "direct")),
)


def compare(step: Step, work: str, case: str, dtype: str, ways: tuple[str, ...]) -> None:
    """Times the ways of one call in turns and prints them in microseconds."""
    known = TOY if step.toy else CASES
    name = next(iter(TOY)) if step.toy else case
    inputs = Inputs.of(known[name]._replace(grid_sample=False), DTYPES[dtype], step.device)
    call = works(inputs, None)[work]["ours"]
    if not step.on_gpu:  # no way to choose from
        times = medians(samples_ms({CHOSEN: call}, host_ms, rounds=2, repeats=1))
        step.say(f"{work} {name} {dtype}: {1e3 * times[CHOSEN]:.2f} us")
        return
    graphs = {}
    given = os.environ.pop(VARIABLE, None)
    for way in ways:
        if way != CHOSEN:
            os.environ[VARIABLE] = way
        try:
            graphs[way] = captured(call, CALLS_OF_A_GRAPH)
        except RuntimeError as error:
            step.say(f"{work} {name} {dtype} {way}: {str(error).splitlines()[0][:120]}")
        finally:
            os.environ.pop(VARIABLE, None)
    if given is not None:
        os.environ[VARIABLE] = given
    times = medians(samples_ms(graphs, event_ms, rounds=8, repeats=1, until_s=1.0))
    told = ", ".join(f"{way} {1e3 * ms / CALLS_OF_A_GRAPH:.2f}" for way, ms in times.items())
    step.say(f"{work} {name} {dtype}: {told} us")


def main() -> None:
    """All of them, as far as the time goes."""
    step = Step.of("paths", __doc__)
    torch.manual_seed(0)
    for work, case, dtype, ways in WANTED[:1] if step.toy else WANTED:
        if step.left_s < 2:
            step.say(f"{work} {case} {dtype}: left out, the step's time is over")
            continue
        compare(step, work, case, dtype, ways)


if __name__ == "__main__":
    main()
