"""Finds the Records of a store that are unaltered since they were written, and adds digests to
stores that were written without digests.

    python -m rfdetr_repro.seal results/*.jsonl
    python -m rfdetr_repro.seal results/old.jsonl --out results/sealed.jsonl

For each store the command counts the Records that agree with their digests, and the Records without
digests. A store with an altered Record is an error that names the line. With --out the command
writes a copy of one store in which every Record without digests gets digests and the time of this
step (``sealed_at``). Such digests prove that the Record has not been altered since that time, and
nothing about the time before. Every other line of the copy equals the line of the store, byte for
byte. The store itself is never changed.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rfdetr_repro.spec.arguments import ArgumentParser, input_file, output_file
from rfdetr_repro.spec.clock import utc_now
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import output_path, parse_json, read_input, write_atomic

from .digests import SEALED, digests_of
from .record import Record
from .store import Store

VERIFIED = "verified"
LATER = "verified since a later time"
WITHOUT = "without digests"


def parser() -> argparse.ArgumentParser:
    """The argument parser of ``rfdetr-repro seal``."""
    arguments = ArgumentParser(
        "rfdetr_repro.seal",
        description=("Counts the Records of stores that are unaltered since they were written."),
        examples=(
            "seal results/embedded.jsonl",
            "seal results/old.jsonl --out results/sealed.jsonl",
        ),
    )
    arguments.add_argument(
        "stores", type=input_file, nargs="+", metavar="STORE.jsonl", help="files of Records"
    )
    copy_help = (
        "write a copy of the store, in which Records without digests get digests and the time of "
        "this step, to this new file"
    )
    arguments.add_argument("--out", type=output_file, metavar="NEW.jsonl", help=copy_help)
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command ``rfdetr-repro seal``. Raises :class:`InputError` for an altered Record."""
    args = parser().parse_args(argv)
    if args.out is not None and len(args.stores) > 1:
        raise InputError(
            f"--out {args.out} is for one store, {len(args.stores)} are given",
            hint="seal one store at a time",
        )
    if args.out is not None and output_path(args.out).exists():
        raise InputError("--out would replace a file", args.out, "give the name of a new file")
    for path in args.stores:
        counts = states(path)
        print(
            f"{path}: {', '.join(f'{counts[state]} {state}' for state in counts) or 'no Records'}"
        )
    if args.out is not None:
        print(f"{args.out}: {seal(args.stores[0], args.out)} Records were given digests")
    return 0


def states(path: Path) -> Counter[str]:
    """Counts the lines of a store by their digests: VERIFIED, LATER (added after the line was
    written) or WITHOUT.
    """
    return Counter(map(_state, _checked_lines(path)))


def seal(path: Path, out: Path) -> int:
    """Writes to ``out`` a copy of the store ``path`` with digests for the Records without digests,
    and returns their number.
    """
    lines = _checked_lines(path)
    now = utc_now()
    sealed = [_sealed(line, now) if _state(line) == WITHOUT else line for line in lines]
    write_atomic(out, b"".join(line + b"\n" for line in sealed))
    return sum(_state(line) == WITHOUT for line in lines)


def _checked_lines(path: Path) -> list[bytes]:
    """The complete lines of a store.

    Raises :class:`InputError` for an altered or unreadable Record.
    """
    if not path.exists():
        raise InputError("no such store", path, "give a .jsonl file of Records")
    Store(path).read()
    *lines, _ = read_input(path).split(b"\n")  # what follows the last newline is a torn line
    return [line for line in lines if line.strip()]


def _state(line: bytes) -> str:
    digest = parse_json(line).get("digest")
    if digest is None:
        return WITHOUT
    return LATER if SEALED in digest else VERIFIED


def _sealed(line: bytes, now: str) -> bytes:
    record_id = Record.from_json(line).id
    fields = parse_json(line)
    fields.pop("id", None)
    fields.pop("digest", None)  # an explicit null
    digest = digests_of(fields, record_id) | {SEALED: now}
    return json.dumps(
        {"id": record_id, "digest": digest, **fields}, sort_keys=True, allow_nan=False
    ).encode()
