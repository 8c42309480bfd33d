"""Patch sizes that training never drew, each beside the trained architecture with as many tokens
(paper v2 Appendix L).
"""

from __future__ import annotations

from collections.abc import Sequence

from rfdetr_repro.records.record import Record
from rfdetr_repro.spec.arch import Arch

from .format import MEASURED, Cell, Column, Table


def family_table(records: Sequence[Record], trained: Sequence[Record]) -> Table:
    """Each never-trained patch beside the trained architecture with as many tokens (the paper's
    "equivalent" one, Appendix H).

    ``trained``: search Records of the space; of several with equal tokens the one with the same
    windows and the nearest input.
    """
    columns = [
        Column("arch", "architecture", right=False),
        Column("tokens", "tokens"),
        Column("ap", "AP"),
        Column("ap50", "AP50"),
    ]
    columns += [
        Column("like", "trained, as many tokens", right=False),
        Column("like_ap", "its AP"),
        Column("gap", "difference"),
    ]
    table = Table("family", "Patch sizes that training never drew", columns)
    for record in records:
        arch = record.model.arch
        assert arch is not None and record.accuracy is not None
        row = {"arch": Cell(arch.key), "tokens": Cell(str(arch.tokens), value=float(arch.tokens))}
        row |= {"ap": _percent(record.accuracy.ap), "ap50": _percent(record.accuracy.ap50)}
        like = _equivalent(arch, trained)
        ap = like.accuracy.ap if like is not None and like.accuracy else None
        if (
            like is not None
            and like.model.arch is not None
            and ap is not None
            and record.accuracy.ap is not None
        ):
            difference = 100 * (record.accuracy.ap - ap)
            row |= {"like": Cell(like.model.arch.key), "like_ap": _percent(ap)}
            row["gap"] = Cell(f"{difference:+.1f}", MEASURED, difference)
        table.add(row)
    synthetic = records[0].data is not None and records[0].data.synthetic
    table.notes = ["AP in percent" + (" on SYNTHETIC images: not COCO AP." if synthetic else ".")]
    return table


def _equivalent(arch: Arch, trained: Sequence[Record]) -> Record | None:
    """The trained Record with as many tokens and the same decoder."""

    def alike(record: Record) -> bool:
        one = record.model.arch
        return (
            one is not None
            and one.tokens == arch.tokens
            and (one.decoder_layers, one.queries) == (arch.decoder_layers, arch.queries)
        )

    def distance(record: Record) -> tuple[bool, int]:
        one = record.model.arch
        assert one is not None
        return one.windows != arch.windows, abs(one.input_hw[0] - arch.input_hw[0])

    return min(filter(alike, trained), key=distance, default=None)


def _percent(value: float | None) -> Cell:
    return Cell("-") if value is None else Cell(f"{100 * value:.1f}", MEASURED, 100 * value)
