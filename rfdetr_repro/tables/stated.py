"""The sentences of the paper that state a number, with the number recomputed from the printed
cells (:mod:`rfdetr_repro.paper.stated`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rfdetr_repro.paper.stated import AGREEMENT, NO, WITHIN, YES, Statement

from .table import BAD, COMPUTED, GOOD, OPEN, PUBLISHED, Cell, Column, Table

TITLE = "Sentences of the paper that state a number, recomputed from its printed tables"
_TONES = {YES: GOOD, WITHIN: OPEN, NO: BAD}


def stated_table(
    found: Sequence[Statement],
    cite: Callable[[str], str] = str,
    *,
    title: str = TITLE,
) -> Table:
    """One row per sentence.

    Args:
        found: the sentences.
        cite: how a source is printed.
        title: printed above the table.
    """
    columns = [
        Column("claim", "claim", right=False),
        Column("stated_value", "stated"),
        Column("recomputed", "recomputed"),
        Column("unit", "unit", right=False),
        Column("agrees", "agrees", right=False),
        Column("how", "how", right=False, rank=1, wraps=True),
        Column("note", "note", right=False, rank=2, wraps=True),
        Column("version", "version", right=False, rank=4),
        Column("source", "source", right=False, rank=3, wraps=True),
    ]
    table = Table("stated", title, columns)
    for one in found:
        texts = {"claim": one.claim, "unit": one.unit, "how": one.how, "note": one.note}
        row = {key: Cell(text) for key, text in texts.items()}
        row["stated_value"] = Cell(one.stated, PUBLISHED)
        row["recomputed"] = Cell(one.recomputed, COMPUTED)
        row["agrees"] = Cell(one.agrees, tone=_TONES.get(one.agrees, ""))
        row["version"] = Cell(one.version)
        row["source"] = Cell(cite(one.source))
        table.add(row)
    present = {one.agrees for one in found}
    table.notes = [f"{word}: {told}." for word, told in AGREEMENT.items() if word in present]
    return table
