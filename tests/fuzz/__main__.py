"""Structured fuzz of everything that the commands read: ``python tests/fuzz --seconds 600`` (or
``tox run -e fuzz -- ...``).

Valid inputs (``seeds.py``) are spoiled (``mutations.py``) and given to the commands (``cases.py``).
Right is: one clear line and exit code 2 and nothing written, or work that is done. Exit code 1 if
any case came out wrong.
"""

from __future__ import annotations

import argparse
import collections
import csv
import os
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support"), str(HERE.parents[1])]
os.environ.setdefault("OMP_NUM_THREADS", "1")

from cases import OF_FILE, Case, cases  # noqa: E402
from runner import KINDS, RIGHT, TIMEOUT_S, Verdict, load_commands, run_case  # noqa: E402
from seeds import write_seeds  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser("fuzz", description="Structured fuzz of every reader.")
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="stop after this time (default 60)"
    )
    parser.add_argument("--most", type=int, default=10**9, help="stop after so many cases")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the order and of the random mutations"
    )
    parser.add_argument(
        "--reader",
        default="",
        help=f"only cases whose reader begins so: {', '.join(OF_FILE)}, arguments",
    )
    parser.add_argument("--case", default="", help="only cases whose name contains this text")
    parser.add_argument(
        "--timeout",
        type=float,
        default=TIMEOUT_S,
        help="seconds after which a case is a hang (default 60)",
    )
    parser.add_argument("--csv", type=Path, help="write every wrong case here")
    args = parser.parse_args()
    load_commands()
    with tempfile.TemporaryDirectory(prefix="fuzz_seeds_") as folder:
        seeds = write_seeds(Path(folder))
        chosen = [
            case
            for case in cases(seeds, args.seed)
            if case.reader.startswith(args.reader) and args.case in case.name
        ]
        results = _run(chosen[: args.most], seeds, time.monotonic() + args.seconds, args.timeout)
    _print(results, len(chosen))
    if args.csv:
        _write(args.csv, results)
    return int(any(verdict.kind != RIGHT for _, verdict in results))


def _run(
    chosen: list[Case], seeds: Path, until: float, timeout_s: float
) -> list[tuple[Case, Verdict]]:
    results = []
    for case in chosen:
        if time.monotonic() > until:
            break
        verdict = run_case(case, seeds, timeout_s)
        results.append((case, verdict))
        if verdict.kind != RIGHT:
            print(f"{verdict.kind}: {case.name[:150]}: {verdict.said[:200]}", flush=True)
    return results


def _print(results: list[tuple[Case, Verdict]], known: int) -> None:
    readers = sorted({case.reader for case, _ in results})
    counts = collections.Counter((case.reader, verdict.kind) for case, verdict in results)
    width = max(map(len, [*readers, "reader"]))
    print(f"\n{len(results)} of {known} cases")
    print("reader".ljust(width) + "".join(f"  {kind:>{max(6, len(kind))}}" for kind in KINDS))
    for reader in readers:
        print(
            reader.ljust(width)
            + "".join(f"  {counts[reader, kind] or '-':>{max(6, len(kind))}}" for kind in KINDS)
        )
    right = sum(verdict.kind == RIGHT for _, verdict in results)
    slowest = max(results, key=lambda row: row[1].seconds)
    share = right / max(1, len(results))
    print(
        f"right: {right} of {len(results)} ({share:.2%}); slowest {slowest[1].seconds:.1f} s: "
        f"{slowest[0].name[:80]}"
    )


def _write(path: Path, results: list[tuple[Case, Verdict]]) -> None:
    with open(path, "w", newline="", encoding="utf-8", errors="backslashreplace") as stream:
        writer = csv.writer(stream)
        writer.writerow(["case", "kind", "exit", "seconds", "memory_gib", "said"])
        for case, verdict in results:
            if verdict.kind != RIGHT:
                writer.writerow(
                    [
                        case.name,
                        verdict.kind,
                        verdict.exit_code,
                        f"{verdict.seconds:.1f}",
                        f"{verdict.memory_gib:.1f}",
                        verdict.said,
                    ]
                )


if __name__ == "__main__":
    raise SystemExit(main())
