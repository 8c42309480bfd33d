"""Measures artifacts: latency by the protocol, and with --data the accuracy of the same files.

python -m rfdetr_repro.bench --model a.onnx b.onnx --data DIR --split val --protocol both \
    --out results/bench.jsonl
python -m rfdetr_repro.bench --campaign buffer-sweep --models rfdetr-medium
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rfdetr_repro.spec.errors import StatedFailure

from .arguments import FORMS, NORMALISE, check, parser, protocols_of

if TYPE_CHECKING:
    from rfdetr_repro.bench.gpu.device import Watched

__all__ = ["FORMS", "NORMALISE", "main"]


def main(argv: Sequence[str] | None = None) -> None:
    """Measures the artifacts that ``argv`` names and prints the Records; raises :class:`InputError`
    for bad arguments, :class:`StatedFailure` if a row fails.
    """
    args = parser().parse_args(argv)
    check(args)
    protocols = protocols_of(args)
    # loads slowly, so the arguments are checked first
    from rfdetr_repro.runtime.backends import check_backend

    from .rows import artifacts_of, read_data, rows_of

    check_backend(args.backend)
    splits = read_data(args)
    artifacts, failures = artifacts_of(args, splits)
    rows = rows_of(artifacts, splits, args)
    # slow to load; arguments and files are checked first
    from rfdetr_repro.bench.confirm import Context, confirm_all
    from rfdetr_repro.records.store import Store

    from .printing import gate, hints, instrument_lines, lines, verdicts

    command = "python -m rfdetr_repro.bench " + " ".join(sys.argv[1:] if argv is None else argv)
    context = Context(args.campaign, command)
    store = Store(args.out)
    with _watched(args) as watched:
        if watched is not None:
            context = replace(context, machine=watched.machine)
            protocols = [
                replace(protocol, clock_policy=watched.clock_policy) for protocol in protocols
            ]
        twin = "always" if (len(rows) > 1 if args.twice is None else args.twice) else "never"
        outcome = confirm_all(
            rows, protocols, store, context=context, watch=watched and watched.watch, twin=twin
        )
    failures.update(outcome.failures)
    wanted = len(rows.keys() | failures.keys())
    if wanted == 1 and failures:
        raise next(iter(failures.values()))
    compared, lost = gate(outcome.records, args.ap_gate)
    if outcome.records:
        found = outcome.records
        print(
            "\n".join(
                [
                    *lines(found),
                    *instrument_lines(found),
                    *verdicts(found, store.path.parent),
                    *compared,
                    *hints(found),
                ]
            )
        )
        print(f"records in {Path(args.out)}")
    for name, failure in failures.items():
        print(f"failed: {name}: {failure}", file=sys.stderr)
    if failures or lost:
        raise StatedFailure(_count(len(failures), wanted, len(lost)))


def _count(failed: int, wanted: int, lost: int) -> str:
    parts = [f"{failed} of {wanted} rows"] * bool(failed) + [
        f"{lost} FP16 models lose more AP than allowed"
    ] * bool(lost)
    return "; ".join(parts)


@contextmanager
def _watched(args: argparse.Namespace) -> Iterator[Watched | None]:
    """A watch on the GPU, for backends that use a GPU."""
    from rfdetr_repro.bench.gpu.device import uses_gpu, watching

    if not uses_gpu(args.backend):
        yield None
        return
    with watching(force=args.force, lock=args.lock_clocks) as watched:
        yield watched
