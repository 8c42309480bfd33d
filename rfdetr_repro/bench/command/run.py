"""Measures artifacts: latency by the protocol, and with --data the accuracy of the same files.

python -m rfdetr_repro.bench --model a.onnx b.onnx --data DIR --split val --protocol both \
    --out results/bench.jsonl
python -m rfdetr_repro.bench --campaign buffer-sweep --models rfdetr-medium
"""

from __future__ import annotations

import argparse
import logging
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rfdetr_repro.spec.errors import StatedFailure
from rfdetr_repro.spec.launch import command_line

from .arguments import parser
from .checks import check
from .protocols import protocols_of
from .runtimes import ON_CPU, backends_of, device_number, first_backend
from .wishes import FORMS, NORMALISE

if TYPE_CHECKING:
    from rfdetr_repro.bench.cells import Context, Row
    from rfdetr_repro.bench.confirm import Outcome
    from rfdetr_repro.bench.gpu.device import Watched
    from rfdetr_repro.bench.interleaved import Watch
    from rfdetr_repro.records.store import Store
    from rfdetr_repro.spec.protocol import Protocol

__all__ = ["FORMS", "NORMALISE", "main"]

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> None:
    """Measures the artifacts that ``argv`` names and prints the Records; raises :class:`InputError`
    for bad arguments, :class:`StatedFailure` if a row fails.
    """
    args = parser().parse_args(argv)
    check(args)
    protocols = protocols_of(args)
    # loads slowly, so the arguments are checked first
    from rfdetr_repro.runtime.backends import check_backend

    from .rows import artifacts_of, read_data, rows_of, with_batches

    for backend in backends_of(args):
        check_backend(backend, args.device_api)
    if args.backend is None and args.campaign is None:
        _tell_runtimes(backends_of(args))
    splits = read_data(args)
    artifacts, failures = artifacts_of(args, splits)
    taken = with_batches(artifacts, args, failures)
    rows = {threads: rows_of(taken, splits, args, threads) for threads in args.threads}
    # slow to load; arguments and files are checked first
    from rfdetr_repro.bench.cells import Context
    from rfdetr_repro.bench.parts import Wanted
    from rfdetr_repro.records.store import Store

    from .printing import gate

    command = command_line("python -m rfdetr_repro.bench", argv)
    parts = Wanted(tuple(args.parts), args.decode) if args.parts else None
    context = Context(args.campaign, command, parts=parts)
    store = Store(args.out)
    with _watched(args) as watched:
        if watched is not None:
            context = replace(context, machine=watched.machine)
            protocols = [
                replace(protocol, clock_policy=watched.clock_policy) for protocol in protocols
            ]
        outcome = _measured(rows, protocols, store, context, watched and watched.watch, args)
    failures.update(outcome.failures)
    titles = dict.fromkeys(name for found in rows.values() for name in found)
    wanted = len(titles.keys() | failures.keys())
    if wanted == 1 and failures:
        raise next(iter(failures.values()))
    compared, lost = gate(outcome.records, args.ap_gate)
    if outcome.records:
        _print_table(outcome, failures, compared, store, args)
    told = bool(outcome.records) and sys.stdout.isatty() and sys.stderr.isatty()
    for name, failure in failures.items():
        if not told:  # else the terminal shows the reason in the table
            print(f"failed: {name}: {failure}", file=sys.stderr)
    if failures or lost:
        raise StatedFailure(_count(len(failures), wanted, len(lost)))


def _tell_runtimes(chosen: Sequence[str]) -> None:
    """Says which runtime of ON_CPU is left out because it is not installed."""
    for name in ON_CPU:
        if name not in chosen:
            log.info(
                f"{name} is not installed, so its rows are left out; pip install "
                f"'rfdetr-repro[{name}]' adds them"
            )


def _measured(
    rows: Mapping[int, Mapping[str, Row]],
    protocols: Sequence[Protocol],
    store: Store,
    context: Context,
    watch: Watch | None,
    args: argparse.Namespace,
) -> Outcome:
    """The outcome of all rows with every number of threads, one number after another."""
    from rfdetr_repro.bench.confirm import Outcome

    outcome = Outcome()
    for threads, some in rows.items():
        chosen = [protocol for protocol in protocols if protocol.threads == threads]
        found = _measured_with(some, chosen, store, context, watch, args)
        for name, records in found.records.items():
            outcome.records.setdefault(name, []).extend(records)
        for name, failure in found.failures.items():
            outcome.failures.setdefault(name, failure)
    return outcome


def _measured_with(
    rows: Mapping[str, Row],
    protocols: Sequence[Protocol],
    store: Store,
    context: Context,
    watch: Watch | None,
    args: argparse.Namespace,
) -> Outcome:
    """The outcome of all rows; while they are measured, lines tell how far they are."""
    from rfdetr_repro.bench.confirm import confirm_all

    from .live import Live

    several = len(rows) > 1 and not args.quick
    twin = "always" if (several if args.twice is None else args.twice) else "never"
    live = Live(list(rows))
    try:
        return confirm_all(
            rows, protocols, store, context=context, watch=watch, twin=twin, report=live
        )
    except KeyboardInterrupt:
        live.close()
        finished = ", ".join(live.done) or "nothing yet"
        print(f"finished and stored in {Path(args.out)}: {finished}", file=sys.stderr)
        raise
    finally:
        live.close()


def _print_table(
    outcome: Outcome,
    failures: Mapping[str, Exception],
    compared: Sequence[str],
    store: Store,
    args: argparse.Namespace,
) -> None:
    """The rows of this command and those of the same store that can stand beside them, the
    comparisons, and the next command.
    """
    from .parts import parts_lines
    from .printing import (
        EARLIER,
        beside,
        hints,
        instrument_lines,
        lines,
        verdicts,
        wrapped,
    )

    found = outcome.records
    earlier = beside(found, store.read())
    wide = args.wide or not sys.stdout.isatty()
    width = None if wide else shutil.get_terminal_size().columns
    table = lines({**found, **earlier}, failures, width)
    output = []
    if earlier:
        output.append(
            f"{EARLIER.strip()} measured by an earlier command, in a session of its own: sessions "
            f"differ by more than their intervals show"
        )
    output += [*instrument_lines(found), *verdicts(found, store.path.parent), *compared]
    print("\n".join([*table, *wrapped([*output, *hints(found)], width)]))
    if args.parts:
        own = [record for records in found.values() for record in records]
        print("\n".join(["", *parts_lines(own, width), ""]))
    print(f"records in {Path(args.out)}")
    print(f"next: {_next(args, outcome)}")


def _next(args: argparse.Namespace, outcome: Outcome) -> str:
    """The command that a user of this one is likely to want next: the paper's Table 2 for boxes on
    COCO, else the table of the measured files.
    """
    if args.quick:
        return "run the command again without --quick, for numbers to compare and publish"
    out = shlex.quote(str(args.out))
    records = [record for found in outcome.records.values() for record in found]
    if any(one.data and one.data.name == "coco" and one.model.task == "detect" for one in records):
        return f"rfdetr-repro tables --table 2 --with {out}"
    return f"rfdetr-repro tables --table frontier --records {out}"


def _count(failed: int, wanted: int, lost: int) -> str:
    parts = [f"{failed} of {wanted} rows"] * bool(failed) + [
        f"{lost} models in a smaller precision lose more AP than allowed"
    ] * bool(lost)
    return "; ".join(parts)


@contextmanager
def _watched(args: argparse.Namespace) -> Iterator[Watched | None]:
    """A watch on the GPU, for backends that use a GPU."""
    from rfdetr_repro.bench.gpu.device import uses_gpu, watching

    if not uses_gpu(first_backend(args)):
        yield None
        return
    number = device_number(args)
    with watching(force=args.force, lock=args.lock_clocks, index=number) as watched:
        yield watched
