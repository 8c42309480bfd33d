"""The table of docs/claims.md says what the stored Records say."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from rfdetr_repro.claims.verdicts import NOT_RUN, Finding, judged
from rfdetr_repro.records.store import read_stores
from rfdetr_repro.spec.metrics import decimals

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "claims.md"
ROW = re.compile(r"^\| (\d+\.\d) \|.*\| ([^|]+) \| (holds|fails|undecided)\b[^|]*\|$", re.M)
NUMBER = re.compile(r"[+-]?\d+\.\d")

Line = tuple[str, tuple[float, ...], str]  # id, effect and the ends of its interval, first word


def documented() -> list[Line]:
    found = ROW.findall(PAGE.read_text(encoding="utf-8"))
    return [(id, tuple(map(float, NUMBER.findall(effect))), word) for id, effect, word in found]


def computed() -> list[Line]:
    return [
        (part.comparison.id, numbers(part), part.word.split()[0])
        for claim in judged(read_stores(sorted((ROOT / "results").glob("*.jsonl"))))
        for part in claim.findings
        if part.word != NOT_RUN
    ]


def numbers(part: Finding) -> tuple[float, ...]:
    if part.effect is None:
        return ()
    ends = (part.effect.value, part.effect.low, part.effect.high)
    return tuple(float(decimals(one, 1)) for one in ends if one is not None)


def test_the_page_has_the_effects_and_verdicts_of_the_stored_records() -> None:
    lines = documented()
    assert len(lines) > 30
    left_out = Counter(computed())
    left_out.subtract(lines)
    wrong = [line for line, count in left_out.items() if count < 0]
    assert not wrong, f"the page says otherwise than rfdetr-repro claims: {wrong}"
    stated = re.search(r"leaves out (\d+) rows", PAGE.read_text(encoding="utf-8"))
    assert stated and int(stated[1]) == left_out.total(), left_out
