"""Patch sizes that training never drew, each next to the trained architecture with the same number
of tokens (paper v2 Appendix L).
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

from rfdetr_repro.records.record import Record, ScoredRecord, SearchedRecord
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.metrics import in_points, percent_value

from .table import MEASURED, Cell, Column, Table, percent_cell

UNKNOWN = Cell("-")


def family_table(records: Sequence[Record], trained: Sequence[Record]) -> Table:
    """A table of never-trained patch sizes, each next to the trained architecture with the same
    number of tokens (the paper's "equivalent", Appendix H).

    ``trained``: search Records of the space; of several with the same number of tokens, the Record
    with the same windows and the nearest input size is taken.
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
    for record, like in alike(records, trained):
        arch = record.as_searched().arch
        own = record.accuracy
        row = {"arch": Cell(arch.key), "tokens": Cell(str(arch.tokens), value=float(arch.tokens))}
        row |= {"ap": percent_cell(own.ap if own else None, UNKNOWN)}
        row |= {"ap50": percent_cell(own.ap50 if own else None, UNKNOWN)}
        known = ScoredRecord.of(like) if like is not None else None
        if like is not None and known is not None and own is not None and own.ap is not None:
            difference = own.ap - known.ap
            row |= {
                "like": Cell(like.as_searched().arch.key),
                "like_ap": percent_cell(known.ap, UNKNOWN),
            }
            row["gap"] = Cell(in_points(difference), MEASURED, percent_value(difference))
        table.add(row)
    synthetic = records[0].data is not None and records[0].data.synthetic
    table.notes = ["AP in percent" + (" on SYNTHETIC images: not COCO AP." if synthetic else ".")]
    return table


def alike(
    records: Sequence[Record], trained: Sequence[Record]
) -> list[tuple[Record, Record | None]]:
    """Each of ``records`` with the Record of ``trained`` that has as many tokens and the same
    decoder, the same windows if there is one, and the nearest input size; None where there is none.
    """
    groups = _by_tokens(trained, {_decoder(record.as_searched().arch) for record in records})
    found: list[tuple[Record, Record | None]] = []
    for record in records:
        arch = record.as_searched().arch
        like = _nearest(arch, groups.get(_tokens(arch), []))
        found.append((record, None if like is None else like.record))
    return found


def _decoder(arch: Arch) -> tuple[int, int]:
    """(decoder layers, queries)."""
    return arch.decoder_layers, arch.queries


def _tokens(arch: Arch) -> tuple[int, int, int]:
    """(number of tokens, decoder layers, queries)."""
    return arch.tokens, *_decoder(arch)


@dataclass(frozen=True)
class _Trained:
    """A trained Record, with what its distance to another architecture takes."""

    searched: SearchedRecord
    windows: int
    height: int  # of the input, in pixels


def _by_tokens(
    trained: Sequence[Record], decoders: Container[tuple[int, int]]
) -> dict[tuple[int, int, int], list[_Trained]]:
    """The trained Records with one of these decoders, by number of tokens and decoder."""
    groups: dict[tuple[int, int, int], list[_Trained]] = {}
    for record in trained:
        arch = record.model.arch
        if arch is not None and _decoder(arch) in decoders:
            one = _Trained(SearchedRecord(record, arch), arch.windows, arch.input_hw[0])
            groups.setdefault(_tokens(arch), []).append(one)
    return groups


def _nearest(arch: Arch, alike: Sequence[_Trained]) -> SearchedRecord | None:
    """The Record with the same windows if there is one, and then the nearest input size."""
    windows = arch.windows
    height = arch.input_hw[0]

    def distance(one: _Trained) -> tuple[bool, int]:
        return one.windows != windows, abs(one.height - height)

    nearest = min(alike, key=distance, default=None)
    return None if nearest is None else nearest.searched
