"""The report's section on what came after the search: fine-tuning, and patch sizes that training
never drew.
"""

from __future__ import annotations

from collections.abc import Sequence

from rfdetr_repro.paper.published import published_rows
from rfdetr_repro.records.record import NEVER_TRAINED, Record
from rfdetr_repro.spec.metrics import decimals
from rfdetr_repro.tables.campaign import finetuning_tables
from rfdetr_repro.tables.family import family_table
from rfdetr_repro.tables.format import Table

from .blocks import Block, Grid, Heading, Paragraph
from .run import Run

FINETUNE = "python -m rfdetr_repro.finetune --run RUN --arch KEY --data DIR --out OUT"
FAMILY = "python -m rfdetr_repro.family --run RUN --data DIR"


def after_search(run: Run) -> list[Block]:
    """Both halves; after a search an absent one names the command that makes it."""
    tables = finetuning_tables(run.records)
    fresh = [
        record
        for record in run.records
        if record.model.variant == NEVER_TRAINED and record.accuracy is not None
    ]
    if not (tables or fresh or any(record.source == "search" for record in run.records)):
        return [
            Heading("After the search"),
            Paragraph("A search, and what comes after it: not in this run.", quiet=True),
        ]
    blocks: list[Block] = [Heading("After the search")]
    for table in tables:
        blocks += [Grid(table), *_beside_published(table)]
    if not tables:
        blocks.append(
            Paragraph(
                f"No fine-tuning of a found architecture is stored here. {FINETUNE}", quiet=True
            )
        )
    return [*blocks, *_family(fresh, run.records)]


def _beside_published(table: Table) -> list[Block]:
    """Whether the changes of AP lie among those that the paper prints; nothing where no change is
    known.
    """
    low, high = published_changes()
    found = _values(table, "change_ap")
    if not found:
        return []
    inside = all(low <= float(decimals(value, 1)) <= high for value in found)
    words = (
        f"The paper's Tables 15 and 16 print changes of AP from {_points(low)} to {_points(high)} "
        f"(COCO, published)."
    )
    verdict = "lie within that range" if inside else "do not all lie within that range"
    return [
        Paragraph(
            f"{words} The changes measured here, {', '.join(map(_points, found))}, {verdict}."
        )
    ]


def published_changes() -> tuple[float, float]:
    """Lowest and highest change of AP by fine-tuning in Tables 15 and 16."""
    rows = [
        row for name in ("15", "16") for row, _ in published_rows(name) if row["ap_kind"] == "delta"
    ]
    changes = [float(row["ap"]) for row in rows if row["ap"]]
    return min(changes), max(changes)


def _family(fresh: Sequence[Record], records: Sequence[Record]) -> list[Block]:
    if not fresh:
        return [
            Paragraph(
                f"No patch sizes that training never drew are stored here. {FAMILY}", quiet=True
            )
        ]
    table = family_table(
        fresh,
        [
            record
            for record in records
            if record.source == "search" and record.model.variant is None
        ],
    )
    gaps = [abs(value) for value in _values(table, "gap")]
    blocks: list[Block] = [Grid(table)]
    if gaps:
        words = (
            "The paper calls patch sizes that were never trained nearly identical to trained ones "
            "with as many tokens (v2 Appendix L, without numbers)."
        )
        measured = (
            f"Here they differ by {decimals(max(gaps), 1)} AP at most, by "
            f"{decimals(sum(gaps) / len(gaps), 1)} on "
            f"average."
        )
        blocks.append(Paragraph(f"{words} {measured}"))
    return blocks


def _points(value: float) -> str:
    """A number of points with its sign."""
    return decimals(value, 1, signed=True)


def _values(table: Table, column: str) -> list[float]:
    """Numbers of a column, in points; cells without one left out."""
    cells = [row[column] for row in table.rows if column in row]
    return [float(cell.value) for cell in cells if cell.value is not None]
