"""Ways to spoil a valid input: of any file its bytes, of JSON and lines of JSON every value, of
text every token.
"""

from __future__ import annotations

import copy
import json
import os
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

RAW = "@@RAW@@"  # stands for text that no JSON library would write


class Mutation(NamedTuple):
    """``apply(path)`` spoils the valid file at ``path``.

    ``refuse``: no program can use the result, so it must be refused.
    """

    name: str
    apply: Callable[[Path], None]
    refuse: bool = False


def of_bytes(seed: bytes, rng: random.Random, flips: int = 20) -> Iterator[Mutation]:
    """Truncations, flipped bits, and content of another kind."""

    def content(data: bytes) -> Callable[[Path], None]:
        return lambda path: _write(path, data)

    yield Mutation("empty", content(b""), True)
    for share in (0.01, 0.25, 0.5, 0.9):
        yield Mutation(f"cut at {share:.0%}", content(seed[: int(share * len(seed))]), True)
    yield Mutation("without its last byte", content(seed[:-1]))
    others = {
        "html": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "git-lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:"
        + b"a" * 64
        + b"\nsize 12345\n",
        "zeros": bytes(4096),
        "noise": rng.randbytes(4096),
        "text": b"shopping list\nmilk\n",
        "nul": b"\0",
        "utf-16": "{}".encode("utf-16"),
        "deep": b"[" * 200_000,
        "png": b"\x89PNG\r\n\x1a\n" + rng.randbytes(64),
        "zip": b"PK\x03\x04" + rng.randbytes(64),
        "pickle": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.",
    }
    for name, data in others.items():
        yield Mutation(name, content(data), True)
    yield Mutation("byte order mark", content(b"\xef\xbb\xbf" + seed))
    yield Mutation("bytes after the end", content(seed + rng.randbytes(64)))
    for number in range(flips):
        flipped = bytearray(seed)
        for _ in range(rng.choice((1, 1, 4, 32))):
            flipped[rng.randrange(min(len(flipped), rng.choice((64, 4096, len(flipped)))))] ^= (
                1 << rng.randrange(8)
            )
        yield Mutation(f"flipped bits {number}", content(bytes(flipped)))


def of_place() -> Iterator[Mutation]:
    """The path is there, but what lies there is no regular file."""
    yield Mutation("missing", lambda path: path.unlink(), True)
    yield Mutation("folder", lambda path: (path.unlink(), path.mkdir()), True)
    yield Mutation("fifo", lambda path: (path.unlink(), os.mkfifo(path)), True)
    yield Mutation(
        "link to a device", lambda path: (path.unlink(), path.symlink_to("/dev/zero")), True
    )
    yield Mutation("link to itself", lambda path: (path.unlink(), path.symlink_to(path)), True)
    yield Mutation(
        "broken link",
        lambda path: (path.unlink(), path.symlink_to(path.with_name("nowhere"))),
        True,
    )


VALUES: tuple[tuple[str, Any], ...] = (
    ("null", None),
    ("true", True),
    ("text", "x"),
    ("empty text", ""),
    ("digits as text", "7"),
    ("long text", "y" * 5000),
    ("control characters", "a\n\x1b[31m\0b"),
    ("-1", -1),
    ("0", 0),
    ("1.5", 1.5),
    ("1e308", 1e308),
    ("2^31", 2**31),
    ("2^63", 2**63),
    ("2^64", 2**64),
    ("10^30", 10**30),
    ("empty list", []),
    ("empty object", {}),
    ("path up", "../../../etc/passwd"),
    ("path of a device", "/dev/zero"),
    ("nested list", [[1, [2]]]),
    ("object", {"a": 1}),
    ("long list", list(range(2000))),
    ("NaN", f"{RAW}NaN"),
    ("Infinity", f"{RAW}Infinity"),
    ("-Infinity", f"{RAW}-Infinity"),
    ("1e999", f"{RAW}1e999"),
    ("5000 digits", RAW + "1" * 5000),
    ("deep list", RAW + "[" * 3000 + "]" * 3000),
)
_NEVER = {"NaN", "Infinity", "-Infinity", "1e999", "5000 digits"}


def of_json(
    document: Any, dump: Callable[[Any], str] = json.dumps, prefix: str = ""
) -> Iterator[Mutation]:
    """Every value replaced by every one of VALUES, every key left out or doubled.

    Of a list the first item stands for all.
    """
    for path in _paths(document):
        where = prefix + (".".join(map(str, path)) or "all")
        for name, value in VALUES:
            yield Mutation(
                f"{where} = {name}", _writer(_with(document, path, value), dump), name in _NEVER
            )
        if path:
            yield Mutation(f"{where} left out", _writer(_without(document, path), dump))


def of_text(text: str) -> Iterator[Mutation]:
    """Every number and word of a text file replaced."""
    for match in re.finditer(r"[\w.\-/]+", text):
        for name, token in (
            ("nan", "nan"),
            ("inf", "inf"),
            ("-1", "-1"),
            ("0", "0"),
            ("1e308", "1e308"),
            ("huge", "9" * 5000),
            ("word", "word"),
            ("nothing", ""),
            ("list", "[1, 2]"),
            ("map", "{a: 1}"),
            ("text", '"x"'),
            ("date", "2020-99-99"),
            ("day", "2020-02-29"),
            ("time", "2020-02-29T12:00:00Z"),
            ("table", "{ a = 1 }"),
            ("deep", "[" * 3000),
            ("deep table", "{ a = " * 3000),
            ("sign", "+"),
            ("triple quote", '"""'),
            ("tag", "!!python/object:os.system x"),
            ("bool", "true"),
            ("long", "n" * 5000),
            ("up", "../../.."),
            ("root", "/"),
            ("nul", "a\0b"),
        ):
            changed = text[: match.start()] + token + text[match.end() :]
            where = f"{text.count(chr(10), 0, match.start()) + 1}:{match.group()[:20]}"
            yield Mutation(
                f"{where} = {name}", lambda path, changed=changed: _write(path, changed.encode())
            )
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines):
        for name, kept in (("left out", []), ("twice", [line, line])):
            changed = "".join([*lines[:number], *kept, *lines[number + 1 :]])
            yield Mutation(
                f"line {number + 1} {name}",
                lambda path, changed=changed: _write(path, changed.encode()),
            )


def _writer(document: Any, dump: Callable[[Any], str]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        text = re.sub(rf'"{RAW}([^"]*)"', r"\1", dump(document))
        _write(path, text.encode("utf-8", "surrogatepass"))

    return write


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from _paths(value[key], (*path, key))
    elif isinstance(value, list) and value:
        yield from _paths(value[0], (*path, 0))


def _with(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    changed = copy.deepcopy(document)
    parent = changed
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    return changed


def _without(document: Any, path: tuple[Any, ...]) -> Any:
    changed = copy.deepcopy(document)
    parent = changed
    for key in path[:-1]:
        parent = parent[key]
    del parent[path[-1]]
    return changed
