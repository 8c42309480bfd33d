"""Which Records of a store are unaltered since they were written; and digests for stores that were
written without them.

    python -m rfdetr_repro.seal results/*.jsonl
    python -m rfdetr_repro.seal results/old.jsonl --out results/sealed.jsonl

The command counts, for each store, the Records whose digests agree with what they say, and those
that have no digests. A store with an altered Record is an error that names the line. With --out a
copy of the one store is written in which every Record without digests has them, and beside them the
time at which that was done (``sealed_at``): such digests say that the Record has not been altered
since that time, and nothing about the time before. Every other line of the copy is that of the
store, byte for byte. The store itself is never changed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from rfdetr_repro.spec.arguments import input_file, output_file
from rfdetr_repro.spec.errors import ArgumentParser, InputError
from rfdetr_repro.spec.files import open_input, output_path, parse_json, write_atomic

from .digests import SEALED, digests_of
from .record import Record
from .store import Store

VERIFIED = "verified"
LATER = "verified since a later time"
WITHOUT = "without digests"


def main(argv: Sequence[str] | None = None) -> int:
    parser = ArgumentParser(
        "rfdetr_repro.seal",
        description="Which Records of stores are unaltered since they were written.",
    )
    parser.add_argument(
        "stores", type=input_file, nargs="+", metavar="STORE.jsonl", help="files of Records"
    )
    told = (
        "write a copy of the one store in which Records without digests have them, with the time; "
        "the file must not exist"
    )
    parser.add_argument("--out", type=output_file, metavar="NEW.jsonl", help=told)
    args = parser.parse_args(argv)
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
    """Lines of a store by what their digests say: VERIFIED, LATER (given to the line after it was
    written) or WITHOUT.
    """
    return Counter(map(_state, _checked_lines(path)))


def seal(path: Path, out: Path) -> int:
    """Writes a copy of the store ``path`` with digests for the Records that have none; returns how
    many those are.
    """
    lines = _checked_lines(path)
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    sealed = [_sealed(line, now) if _state(line) == WITHOUT else line for line in lines]
    write_atomic(out, b"".join(line + b"\n" for line in sealed))
    return sum(_state(line) == WITHOUT for line in lines)


def _checked_lines(path: Path) -> list[bytes]:
    """The whole lines of a store; an altered or unreadable Record is an :class:`InputError`."""
    if not path.exists():
        raise InputError("no such store", path, "give a .jsonl file of Records")
    Store(path).read()
    with open_input(path) as stream:
        *lines, _ = stream.read().split(b"\n")  # what follows the last newline is a torn line
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
