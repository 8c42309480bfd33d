"""``rfdetr-repro pick``: the best model of a run under a latency budget."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rfdetr_repro.spec.arguments import ArgumentParser, input_folder, number
from rfdetr_repro.spec.protocol import MODES

METRICS = ("ap", "ap50", "mask_ap", "mask_ap50")


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    arguments = ArgumentParser(
        "rfdetr_repro.pick",
        description=(
            "Copies the most accurate measured model whose latency is within the budget to "
            "RUN/best-5ms.onnx (for a budget of 5 ms) with its manifest, and writes the class "
            "names to RUN/labels.txt. The exit code is 1 where every model is slower."
        ),
        examples=(
            "pick runs/mine --budget-ms 5",
            "pick runs/mine --budget-ms 8 --quantile p95 --mode sustained",
        ),
    )
    add = arguments.add_argument
    add("run", type=input_folder, help="folder of a search or of the whole flow")
    add(
        "--budget-ms",
        required=True,
        type=number(0, 1e6, "()"),
        help="largest latency of one image in milliseconds",
    )
    add(
        "--quantile",
        choices=("median", "p90", "p95", "p99"),
        default="median",
        help="statistic of the latency that has to be within the budget (default: median)",
    )
    add(
        "--mode",
        choices=MODES,
        default="buffered",
        help="buffered: with a pause before each image; sustained: image after image (default: "
        "buffered)",
    )
    add("--metric", choices=METRICS, default="ap", help="accuracy to maximise (default: ap)")
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Picks a model and prints where it is and what to type next."""
    args = parser().parse_args(argv)
    from .pick import LABELS, Budget, pick  # loads slowly, so the arguments are checked first

    found = pick(args.run, Budget(args.budget_ms, args.quantile, args.mode, args.metric))
    print(found.describe())
    print(f"class names: {args.run}/{LABELS}")
    print(f"next: rfdetr-repro evaluate --artifact {found.artifact.path} --data DIR --split test")
