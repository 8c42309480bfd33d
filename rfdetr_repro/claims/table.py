"""The claims of the paper with their verdicts, as a table. No torch here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rfdetr_repro.spec.metrics import decimals
from rfdetr_repro.tables.table import BAD, GOOD, MEASURED, OPEN, Cell, Column, Table

from .catalog import UNITS
from .verdicts import FAILS, HOLDS, NOT_RUN, UNDECIDED, WORDS, Finding, Judged

_TONES = {HOLDS: GOOD, FAILS: BAD, UNDECIDED: OPEN, NOT_RUN: OPEN}
SMALL = (
    "The scale is small: pico models, images that this project composed, two cores. A verdict says "
    "what was seen at this scale, and nothing about COCO or the paper's models."
)
RULES = (
    "effect: what is named first, minus what it is compared with, in points of AP or % of the "
    "median latency (7.2: a slope), with its 95 % interval. A claim holds where the whole interval "
    "lies in the expected region, and fails where it lies wholly outside. A margin in points is "
    "judged on the pairs whose first AP is 20 or more.",
    "A claim about training needs 3 seeds or more (Student's interval over the seeds), and a claim "
    "about many data sets 3 data sets or more. With fewer seeds the interval is over other images "
    "of the same kind, and decides only claims about given weights.",
)


def claims_table(found: Sequence[Judged]) -> Table:
    """One row per comparison and data set, below a heading per claim."""
    columns = [
        Column("id", "id", right=False),
        Column("what", "compared", right=False, wraps=True),
        Column("expected", "expected", right=False, rank=1, wraps=True),
        Column("scale", "scale", right=False, rank=1, wraps=True),
        Column("pairs", "pairs", rank=3),
        Column("effect", "effect"),
        Column("ci", "95% CI"),
        Column("unit", "unit", right=False, rank=4),
        Column("verdict", "verdict", right=False),
        Column("why", "why", right=False, rank=2, wraps=True),
        Column("command", "command", right=False, rank=5, wraps=True),
    ]
    table = Table("claims", "The claims of the paper, each with a verdict", columns)
    for one in found:
        heading = f"{one.claim.id}. {one.claim.sentence} ({one.claim.place}): {one.word}"
        ids = Counter(finding.comparison.id for finding in one.findings)
        for finding in one.findings:
            row = _row(finding, ids[finding.comparison.id] > 1)
            row["claim"] = Cell(one.claim.sentence)
            table.add(row, heading)
    counts = Counter(one.word for one in found)
    counted = ", ".join(f"{counts[word]} {word}" for word in WORDS if counts[word])
    table.notes = [f"Claims: {counted}.", SMALL, *RULES]
    return table


def commands_lines(found: Sequence[Judged]) -> list[str]:
    """A line for each comparison that was not run: the command that runs it, or what is missing."""
    lines = []
    for one in found:
        for finding in one.findings:
            if finding.word == NOT_RUN:
                part = finding.comparison
                words = "; ".join(filter(None, (part.command, part.missing)))
                lines.append(f"{part.id} not run: {words}")
    return lines


def _row(finding: Finding, several: bool) -> dict[str, Cell]:
    """``several``: whether the comparison has other rows, from which only its scale tells it."""
    part = finding.comparison
    told = f"{part.what} ({finding.scale.words})" if several and finding.scale else part.what
    row = {
        "id": Cell(part.id),
        "what": Cell(told, value=part.what),
        "expected": Cell(part.expected.words),
        "unit": Cell(UNITS[part.measure]),
        "verdict": Cell(finding.word, tone=_TONES[finding.word]),
        "why": Cell(finding.reason),
        "command": Cell(part.command if finding.word == NOT_RUN else ""),
    }
    effect = finding.effect
    if finding.scale is None or effect is None:
        return row
    row["scale"] = Cell(finding.scale.words)
    row["pairs"] = Cell(str(finding.pairs), value=finding.pairs)
    row["effect"] = Cell(decimals(effect.value, 1, signed=True), MEASURED, round(effect.value, 4))
    if effect.low is None or effect.high is None:
        row["ci"] = Cell("none")
        return row
    low = decimals(effect.low, 1, signed=True)
    high = decimals(effect.high, 1, signed=True)
    row["ci"] = Cell(
        f"{low} to {high}", MEASURED, low=round(effect.low, 4), high=round(effect.high, 4)
    )
    return row
