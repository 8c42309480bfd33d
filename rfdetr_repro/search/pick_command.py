"""``rfdetr-repro pick``: the best model of a run under a latency budget."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rfdetr_repro.spec.arguments import ArgumentParser, input_folder, number
from rfdetr_repro.spec.campaign import METRICS
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.protocol import BACKENDS, DEPLOYED_PRECISIONS, MODES, QUANTILES

if TYPE_CHECKING:
    from .budget import Budget


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    arguments = ArgumentParser(
        "rfdetr_repro.pick",
        description=(
            "Copies the most accurate measured model whose latency is within the budget to "
            "RUN/best-5ms.onnx (for a budget of 5 ms; the ending is that of the model's format) "
            "with its manifest, and writes the class names to RUN/labels.txt. The exit code is 1 "
            "where every model is slower."
        ),
        examples=(
            "pick runs/mine --budget-ms 5",
            "pick runs/mine --budget-ms 8 --quantile p95 --mode sustained",
            "pick runs/mine --budget-ms 5 --backend torch-graph --precision bf16",
        ),
    )
    add = arguments.add_argument
    add("run", type=input_folder, help="folder of a search or of the whole flow")
    add_budget(add, needed=True)
    add(
        "--mode",
        choices=MODES,
        default="buffered",
        help="buffered: with a pause before each image; sustained: image after image (default: "
        "buffered)",
    )
    add("--metric", choices=METRICS, default="ap", help="accuracy to maximise (default: ap)")
    add(
        "--backend",
        choices=BACKENDS,
        help="choose among the files that were measured on this runtime (default: the only runtime "
        "of the run)",
    )
    add(
        "--precision",
        choices=DEPLOYED_PRECISIONS,
        help="choose among the files that were measured in this precision (default: any)",
    )
    return arguments


def add_budget(add: Callable[..., Any], *, needed: bool = False) -> None:
    """Adds ``--budget-ms`` and ``--quantile`` by an ``add_argument``."""
    add(
        "--budget-ms",
        required=needed,
        type=number(0, 1e6, "()"),
        help="ceiling for the latency of one image in milliseconds: the most accurate model whose "
        "measured latency is within it is copied to RUN/best-5ms.onnx (for 5 ms)",
    )
    add(
        "--quantile",
        choices=QUANTILES,
        help="statistic of the latency that has to be within the budget (default: median)",
    )


def budget_of(args: argparse.Namespace, mode: str, metric: str) -> Budget | None:
    """The budget that the arguments of :func:`add_budget` state; None without ``--budget-ms``."""
    from .budget import Budget

    refuse_quantile_alone(args)
    if args.budget_ms is None:
        return None
    return Budget(args.budget_ms, args.quantile or "median", mode, metric)


def refuse_quantile_alone(args: argparse.Namespace) -> None:
    """Raises :class:`InputError` for ``--quantile`` without ``--budget-ms``."""
    if args.quantile is not None and args.budget_ms is None:
        raise InputError("--quantile without --budget-ms", hint="add --budget-ms")


def main(argv: Sequence[str] | None = None) -> None:
    """Picks a model and prints where it is and what to type next."""
    args = parser().parse_args(argv)
    from .budget import Budget

    budget = Budget(args.budget_ms, args.quantile or "median", args.mode, args.metric)
    tell_pick(args.run, budget, args.backend, args.precision)


def tell_pick(
    run: str | Path, budget: Budget, backend: str | None = None, precision: str | None = None
) -> None:
    """Picks a model and prints where it is and what to type next; the arguments are those of
    :func:`~.pick.pick`. Raises :class:`~rfdetr_repro.spec.errors.StatedFailure` where every model
    is slower.
    """
    from .pick import LABELS, pick  # loads slowly, so the arguments are checked first

    found = pick(run, budget, backend, precision)
    print(found.describe())
    print(f"class names: {Path(run) / LABELS}")
    model = shlex.quote(str(found.artifact.path))
    print(f"next: rfdetr-repro predict PICTURES --model {model}")
    print(f"      rfdetr-repro evaluate --model {model} --data DIR --split test")
