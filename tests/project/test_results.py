"""Stored Records name no folder of the machine that made them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

RESULTS = Path(__file__).resolve().parents[2] / "results"
# where a word may begin; then a POSIX path, a home folder, a drive, or a share of Windows
ABSOLUTE = re.compile(r"""(?:^|[\s"'=(,;:\[])(?:/[\w.~-]|~[\w.-]*/|[A-Za-z]:[\\/]|\\\\\w)""")
ENCODED = {"aps"}  # numbers in base64, which has slashes


def texts(value: Any, field: str = "") -> Iterator[tuple[str, str]]:
    """Name of the field and text, of every text in a Record."""
    if isinstance(value, str):
        yield field, value
    elif isinstance(value, dict):
        for name, part in value.items():
            yield field, name
            yield from texts(part, name)
    elif isinstance(value, list):
        for part in value:
            yield from texts(part, field)


def paths_of_a_machine(line: str) -> list[str]:
    """Texts of a Record, with the names of their fields, that hold an absolute path."""
    return [
        f"{field}: {text}"
        for field, text in texts(json.loads(line))
        if field not in ENCODED and ABSOLUTE.search(text)
    ]


@pytest.mark.parametrize("path", sorted(RESULTS.rglob("*.jsonl")), ids=lambda path: path.stem)
def test_records_name_no_folder_of_a_machine(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    found = [
        f"line {number}, {told}"
        for number, line in enumerate(lines, 1)
        for told in paths_of_a_machine(line)
    ]
    assert lines and not found, found[:5]


@pytest.mark.parametrize(
    "words",
    [
        "/home/me/venv/bin/python -m rfdetr_repro.claims --run all",
        "python -m rfdetr_repro.train --data /data/pico",
        "python -m rfdetr_repro.train --data=/data/pico",
        "python -m rfdetr_repro.train --data '/data/my pico'",
        "python -m rfdetr_repro.train --data ~/pico",
        r"python -m rfdetr_repro.train --data C:\Users\me\pico",
        "python -m rfdetr_repro.train --data D:/pico",
        r"python -m rfdetr_repro.train --data \\server\pico",
    ],
)
def test_a_path_of_a_machine_is_found(words: str) -> None:
    assert paths_of_a_machine(json.dumps({"command": words})) == [f"command: {words}"]
    nested = {"env": {"compilers": ["gcc 13", words]}}
    assert paths_of_a_machine(json.dumps(nested)) == [f"compilers: {words}"]


def test_other_texts_are_not_paths_of_a_machine() -> None:
    record = {
        "command": "python -m rfdetr_repro.claims --run all --out runs/claims --data pico:val",
        "notes": "12 px / 3, https://example.org/a/b, c:d, 1/2, a ~ b",
        "resampled": {"aps": "/jnzQfw8zkA4"},
    }
    assert paths_of_a_machine(json.dumps(record)) == []
