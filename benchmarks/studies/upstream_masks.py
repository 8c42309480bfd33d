"""Masks of the image's size from mask logits: the post-processing of the package ``rfdetr`` against
this project's, on the same logits, for the detections that a threshold keeps.

CPU time of one thread in turns, the best of the rounds, in ms; the ratio is that of the medians,
with its 95 % interval over the rounds. ``rfdetr`` must be installed; the
masks are also compared pixel by pixel.

Run: python -m benchmarks.studies.upstream_masks [--rounds 5]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from benchmarks.ratios import ratio, turns_ms
from rfdetr_repro.ops import masks_from_logits
from rfdetr_repro.spec.arguments import whole
from rfdetr_repro.spec.errors import run_main
from rfdetr_repro.spec.optional import optional_module

QUERIES = 200
SIDE = 108  # of the mask logits of RF-DETR Seg at 432
CASES = {"640x480, 20 masks": (480, 640, 20), "1920x1080, 100 masks": (1080, 1920, 100)}


def case_of(kept: int) -> dict[str, Tensor]:
    """Smooth random logits, and scores of which ``kept`` are above 0.5."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, QUERIES, 9, 9, generator=generator)
    logits = torch.nn.functional.interpolate(coarse[0][None], size=(SIDE, SIDE), mode="bicubic")
    scores = torch.linspace(1, 0, QUERIES)[None]
    return {
        "masks": logits.contiguous(),
        "scores": scores,
        "labels": torch.zeros(1, QUERIES, dtype=torch.long),
        "boxes": torch.rand(1, QUERIES, 4, generator=generator),
        "queries": torch.randperm(QUERIES, generator=generator)[None],
        "threshold": scores[0, kept],
    }


@torch.no_grad()
def main(argv: Sequence[str] | None = None) -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--rounds", type=whole(1, 10**6), default=5, help="rounds of each measurement"
    )
    arguments = parser.parse_args(argv)
    post_process = optional_module(
        "rfdetr.models.postprocess", "rfdetr is not installed", "pip install rfdetr"
    ).PostProcess
    torch.set_num_threads(1)
    print(
        f"| case | rfdetr {version('rfdetr')} ms | ours ms | packed bits ms | ratio | other bits |"
    )
    print("|---|---|---|---|---|---|")
    for name, (height, width, kept) in CASES.items():
        given = case_of(kept)
        size = torch.tensor([[height, width]])
        rows = given["queries"][0, :kept]

        def theirs(given: Any = given, size: Tensor = size) -> Tensor:
            found = post_process._postprocess_masks(
                given["masks"],
                given["scores"],
                given["labels"],
                given["boxes"],
                given["queries"],
                size,
                score_threshold=float(given["threshold"]),
            )
            return found[0]["masks"][:, 0]

        def ours(
            given: Any = given, rows: Tensor = rows, shape: Any = (height, width), **more: Any
        ) -> Tensor:
            return masks_from_logits(given["masks"][0, rows], *shape, **more)

        other = int((theirs() != ours()).sum())
        calls = {"theirs": theirs, "ours": ours, "packed": lambda ours=ours: ours(packed=True)}
        times = turns_ms(calls, arguments.rounds, clock=time.process_time)
        best = {name: samples.min() for name, samples in times.items()}
        faster = ratio(times["theirs"], times["ours"])
        print(
            f"| {name} | {best['theirs']:.1f} | {best['ours']:.1f} | {best['packed']:.1f} | "
            f"{faster.median:.1f} ({faster.low:.1f} to {faster.high:.1f}) | {other} |",
            flush=True,
        )


if __name__ == "__main__":
    raise SystemExit(run_main(main))
