"""Multi-scale deformable attention on one CPU thread against torch-ms-deform-attn.

The table of docs/operators.md: python -m benchmarks.studies.attention_cpu, with
torch-ms-deform-attn 0.1.1 installed. The calls of a case take turns in a new random order per
round. A round runs each call once, so that caches are as the others left them, or five times in a
row, of which the first is not counted. Times are CPU time: other programs count only by the caches,
the memory and the core's clock that they share. A ratio of medians has the 95 % interval over
rounds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.cases import (
    CASES,
    CHANNELS,
    HEADS,
    forward,
    forward_backward,
    inputs,
    layout,
    peers,
)
from benchmarks.ratios import ratio, turns_ms
from rfdetr_repro.ops import build_info, ms_deform_attn
from rfdetr_repro.ops.library import OPERATORS
from rfdetr_repro.spec.arguments import whole
from rfdetr_repro.spec.errors import InputError, run_main

PEER = "torch_ms_deform_attn"
STEP = 64  # images that torch-ms-deform-attn takes at a time
EACH = {"in turns": 1, "repeated": 5}  # calls in a row
Calls = dict[str, Callable[[], Any]]


def gradient_calls(case: str) -> Calls:
    """The backward operators alone, without autograd around them."""
    levels, tensors = inputs(case)
    value, locations, weights = (tensor.detach() for tensor in tensors)
    upstream = torch.randn(*locations.shape[:2], HEADS * CHANNELS)
    flat = [side for size in levels for side in size]
    shapes, starts = layout(tuple(levels), value.device)
    theirs = torch.ops.torch_ms_deform_attn.backward
    return {
        "ours": lambda: OPERATORS.ms_deform_attn_backward(
            upstream, value, flat, locations, weights
        ),
        PEER: lambda: theirs(value, shapes, starts, locations, weights, upstream, STEP),
    }


def calls_by_pass(case: str) -> dict[str, Calls]:
    """Forward, the gradient operator alone, and forward and backward through autograd."""
    levels, tensors = inputs(case)
    ops = {"ours": ms_deform_attn, PEER: peers()[PEER]}
    halves = [tensors[0].detach().bfloat16(), *tensors[1:]]
    return {
        "forward": {
            **{name: forward(op, levels, tensors) for name, op in ops.items()},
            "ours in bfloat16": forward(ms_deform_attn, levels, halves),
        },
        "gradient": gradient_calls(case),
        "forward + backward": {
            name: forward_backward(op, levels, tensors) for name, op in ops.items()
        },
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a line per case, pass and way of taking turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--rounds",
        type=whole(1, 10**6),
        default=200,
        help="rounds of a small case; the others take a fifth",
    )
    arguments = parser.parse_args(argv)
    if PEER not in peers():
        raise InputError(
            "torch-ms-deform-attn is not installed: pip install torch-ms-deform-attn==0.1.1"
        )
    torch.set_num_threads(1)
    print(build_info())
    for case, (batch, queries, _, _) in CASES.items():
        small = batch * queries <= 300
        for work, calls in calls_by_pass(case).items():
            for way, each in EACH.items():
                rounds = max(10, arguments.rounds // (each * (1 if small else 5)))
                found = turns_ms(calls, rounds, each, clock=time.process_time)
                counted = {name: ms[:, 1:] if each > 1 else ms for name, ms in found.items()}
                print(f"{case}, {work}, {way}, {rounds} rounds:")
                for name, ms in counted.items():
                    told = "" if name == "ours" else f", over ours {ratio(ms, counted['ours'])}"
                    print(f"    {name}: median {np.median(ms):.4f} ms, best {ms.min():.4f}{told}")


if __name__ == "__main__":
    raise SystemExit(run_main(main))
