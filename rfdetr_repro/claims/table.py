"""The claims of the paper with their verdicts, as tables. No torch here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from rfdetr_repro.spec.metrics import decimals
from rfdetr_repro.tables.table import BAD, GOOD, MEASURED, OPEN, Cell, Column, Table

from .comparison import AP, LATENCY, TAIL, UNITS, Comparison
from .verdicts import FAILS, HOLDS, NOT_RUN, UNDECIDED, WORDS, Effect, Finding, Judged

_TONES = {HOLDS: GOOD, FAILS: BAD, UNDECIDED: OPEN, NOT_RUN: OPEN}
_SHORT = {HOLDS: "holds", FAILS: "fails"}
_COUNTED = {HOLDS: ("holds", "hold"), FAILS: ("fails", "fail")}  # of one, and of several
_MANY = 20  # 95 % intervals, of which one misses by chance
_UNCOUNTED = "not counted"
SMALL = (
    "The scale is small: pico models, images that this project composed, two cores. A verdict says "
    "what was seen at this scale, and nothing about COCO or the paper's models."
)
RULES = (
    "effect: what is named first, minus what it is compared with, in points of AP; with % of the "
    "median latency, and for 7.2 the slope in % of the image per patch. over: what the 95 % "
    "interval is over. A comparison holds where the whole interval lies in the claimed region, and "
    "fails where it lies wholly outside. A margin in points is judged on the pairs whose first AP "
    "is 20 or more.",
    "A comparison about training needs 3 seeds or more, and one about many data sets 3 data sets "
    "or more. With fewer seeds the interval is over other images of the same kind, and decides "
    "only comparisons in given weights.",
    "A claim fails if one of its comparisons fails, and holds if all of them hold. Where a "
    "comparison has several rows, those that could decide must agree. A verdict in parentheses "
    "does not count; the row says why.",
)


def summary_table(found: Sequence[Judged]) -> Table:
    """One row per claim: the verdict, and how many of the rows of :func:`findings_table` say so."""
    columns = [
        Column("claim", "", right=False),
        Column("sentence", "claim of the paper", right=False, wraps=True),
        Column("place", "place", right=False, rank=1, wraps=True),
        Column("verdict", "verdict", right=False),
        Column("rows", "comparisons", right=False, wraps=True),
    ]
    table = Table("claims", "The claims of the paper, each with a verdict", columns)
    for one in found:
        table.add(
            {
                "claim": Cell(one.claim.id),
                "sentence": Cell(one.claim.sentence),
                "place": Cell(one.claim.place),
                "verdict": Cell(one.word, tone=_TONES[one.word]),
                "rows": Cell(_rows(one)),
            }
        )
    table.notes = [f"Claims: {counted(one.word for one in found)}.", SMALL]
    return table


def findings_table(found: Sequence[Judged]) -> Table:
    """One row per comparison and scale, to be read: a heading states what is compared and what is
    claimed.
    """
    columns = [
        Column("scale", "seen on", right=False, wraps=True),
        Column("over", "over", right=False, wraps=True),
        Column("effect", "effect"),
        Column("ci", "95% CI"),
        Column("verdict", "verdict", right=False),
    ]
    table = Table("claims", "What was compared", columns)
    for one in found:
        for finding in one.findings:
            row = _row(finding)
            where = row["scale"].text
            remark = finding.reason[:1].upper() + finding.reason[1:]
            row["scale"] = Cell(". ".join(filter(None, (where, remark))), value=where)
            row["verdict"] = Cell(_short(finding), tone=_TONES[finding.word])
            table.add(row, _heading(finding.comparison))
    intervals = sum(
        finding.effect is not None and finding.effect.low is not None
        for one in found
        for finding in one.findings
    )
    table.notes = [*RULES]
    if intervals >= _MANY:
        table.notes.append(
            f"{intervals} intervals are printed. Of so many 95 % intervals about "
            f"{intervals / 20:.0f} would miss their true effect by chance."
        )
    return table


def claims_table(found: Sequence[Judged]) -> Table:
    """One row per comparison and scale with every fact, below a heading per claim: for programs."""
    columns = [
        Column("id", "id", right=False),
        Column("what", "compared", right=False, wraps=True),
        Column("expected", "claimed", right=False, rank=1, wraps=True),
        Column("scale", "seen on", right=False, rank=1, wraps=True),
        Column("over", "over", right=False, wraps=True),
        Column("pairs", "pairs", rank=3),
        Column("effect", "effect"),
        Column("ci", "95% CI"),
        Column("unit", "unit", right=False, rank=4),
        Column("verdict", "verdict", right=False),
        Column("votes", "could decide", right=False, rank=4),
        Column("why", "remark", right=False, rank=2, wraps=True),
        Column("command", "command", right=False, rank=5, wraps=True),
    ]
    table = Table("claims", "The claims of the paper, each with a verdict", columns)
    for one in found:
        heading = f"{one.claim.id}. {one.claim.sentence} ({one.claim.place}): {one.word}"
        for finding in one.findings:
            row = _row(finding)
            row["claim"] = Cell(one.claim.sentence)
            row["claim_verdict"] = Cell(one.word)
            table.add(row, heading)
    table.notes = [SMALL, *RULES]
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


def effect_texts(effect: Effect, measure: str) -> tuple[str, ...]:
    """The effect and, where there is an interval, its ends, as the tables print them: with one
    decimal, or with two where a number other than 0 would be printed as 0.0.
    """
    ends = (effect.value, effect.low, effect.high)
    numbers = [number for number in ends if number is not None]
    digits = 2 if any(number and not float(decimals(number, 1)) for number in numbers) else 1
    unit = " %" if measure in (LATENCY, TAIL) else ""
    return tuple(f"{decimals(number, digits, signed=True)}{unit}" for number in numbers)


def _heading(part: Comparison) -> str:
    """Like "4.1 The last layer dropped, against kept. Claimed: a loss of at most 2 points"."""
    unit = "" if part.measure == AP else f", in {UNITS[part.measure]}"
    what = part.what[:1].upper() + part.what[1:]
    return f"{part.id} {what}. Claimed: {part.expected.words}{unit}"


def counted(words: Iterable[str]) -> str:
    """Verdicts of claims or findings as counts, like "2 hold, 1 fails, 6 undecided"."""
    counts = Counter(words)
    return ", ".join(
        f"{counts[word]} {_COUNTED.get(word, (word, word))[counts[word] > 1]}"
        for word in (*WORDS, _UNCOUNTED)
        if counts[word]
    )


def _decided(finding: Finding) -> bool:
    return finding.word in (HOLDS, FAILS)


def _short(finding: Finding) -> str:
    word = _SHORT.get(finding.word, finding.word)
    return word if finding.votes or not _decided(finding) else f"({word})"


def _rows(one: Judged) -> str:
    return counted(
        finding.word if finding.votes or not _decided(finding) else _UNCOUNTED
        for finding in one.findings
    )


def _row(finding: Finding) -> dict[str, Cell]:
    part = finding.comparison
    row = {
        "id": Cell(part.id),
        "what": Cell(part.what),
        "expected": Cell(part.expected.words),
        "unit": Cell(UNITS[part.measure]),
        "verdict": Cell(finding.word, tone=_TONES[finding.word]),
        "votes": Cell("yes" if finding.votes else "no"),
        "why": Cell(finding.reason),
        "command": Cell(part.command if finding.word == NOT_RUN else ""),
    }
    if finding.scale is None:
        row["scale"] = Cell("not run")
        return row
    row["scale"] = Cell(finding.scale.words)
    effect = finding.effect
    if effect is None:
        return row
    row["over"] = Cell(effect.over)
    row["pairs"] = Cell(str(finding.pairs), value=finding.pairs)
    value, *ends = effect_texts(effect, part.measure)
    row["effect"] = Cell(value, MEASURED, round(effect.value, 4))
    if effect.low is None or effect.high is None:
        row["ci"] = Cell("none")
        return row
    low, high = (end.removesuffix(" %") for end in ends)
    row["ci"] = Cell(
        f"{low} to {high}", MEASURED, low=round(effect.low, 4), high=round(effect.high, 4)
    )
    return row
