"""The page on extensions: its names are in the files that it names, and it stays short."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "extend.md").read_text(encoding="utf-8")
LONGEST = 70  # lines of a section


def test_every_named_part_is_in_its_file() -> None:
    found = re.findall(r"`([\w/]+\.py)`\s\(([^)]*)\)", PAGE)
    assert len(found) >= 5
    for file, names in found:
        source = (ROOT / file).read_text(encoding="utf-8")
        for name in re.findall(r"`(\w+)`", names):
            assert re.search(rf"\b{name}\b", source), f"{file} has no {name}"


def test_every_section_is_short() -> None:
    for section in PAGE.split("\n## ")[1:]:
        assert len(section.splitlines()) <= LONGEST, section.splitlines()[0]
