"""Patch sizes that training never drew, and the family of one resolution (paper: 640 px with patches of 27, 21 and 18):

python -m rfdetr_repro.family --run RUN --data DIR [--patches 10,14,18,24] [--resolutions 128,160]

The patch kernel is resampled to each size as to the trained ones, nothing is learned. Records have the variant NEVER_TRAINED and
stay out of frontiers and figures of the space; printed is each beside the trained architecture with as many tokens, both with
the space's largest decoder.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .config import Arch, SearchSpace
from .errors import InputError, run_main
from .record import NEVER_TRAINED, Record
from .tables_format import MEASURED, Cell, Column, Table, render


def never_trained(space: SearchSpace, patches: Sequence[int], resolutions: Sequence[int] = ()) -> list[Arch]:
    """Architectures with the patch sizes of ``patches`` that the space lacks, each with the space's largest decoder."""
    fresh = [patch for patch in patches if patch not in space.patches]
    if not fresh:
        raise InputError("every patch size given was trained", mend=f"give others than {', '.join(map(str, space.patches))}")
    depth, queries = (max(space.decoder_layers),), (max(space.queries),)
    wanted = replace(space, patches=tuple(fresh), resolutions=tuple(resolutions) or space.resolutions)
    return list(replace(wanted, decoder_layers=depth, queries=queries).check())


def between(space: SearchSpace) -> list[int]:
    """Even patch sizes within the trained range and one beyond it, without the trained ones."""
    low, high = min(space.patches), max(space.patches)
    return [patch for patch in range(max(2, low - 2), high + 5, 2) if patch not in space.patches]


def evaluate(search: Any, archs: Sequence[Arch]) -> list[Record]:
    """A Record of each, accuracy by the shared pass, without a latency; what the store has is not computed again."""
    from .search.evaluation import Whole

    done = {record.id: record for record in search.store.read()}
    records = []
    for arch in archs:
        plain = search.record("search", arch)
        request = replace(plain, model=replace(plain.model, variant=NEVER_TRAINED))
        if request.id not in done:
            accuracy = search.evaluation(Whole((arch,)))[arch]
            found = replace(request, accuracy=accuracy["bbox"], mask_accuracy=accuracy.get("segm"))
            done[request.id] = search.store.append(found)
        records.append(done[request.id])
    return records


def family_table(records: Sequence[Record], trained: Sequence[Record]) -> Table:
    """Each never-trained patch beside the trained architecture with as many tokens (the paper's "equivalent" one, Appendix H).

    ``trained``: search Records of the space; of several with equal tokens the one with the same windows and the nearest input.
    """
    columns = [
        Column("arch", "architecture", right=False),
        Column("tokens", "tokens"),
        Column("ap", "AP"),
        Column("ap50", "AP50"),
    ]
    columns += [Column("like", "trained, as many tokens", right=False), Column("like_ap", "its AP"), Column("gap", "difference")]
    table = Table("family", "Patch sizes that training never drew", columns)
    for record in records:
        arch = record.model.arch
        assert arch is not None and record.accuracy is not None
        row = {"arch": Cell(arch.key), "tokens": Cell(str(arch.tokens), value=float(arch.tokens))}
        row |= {"ap": _percent(record.accuracy.ap), "ap50": _percent(record.accuracy.ap50)}
        like = _equivalent(arch, trained)
        ap = like.accuracy.ap if like is not None and like.accuracy else None
        if like is not None and like.model.arch is not None and ap is not None and record.accuracy.ap is not None:
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


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"{text!r} is no list of whole numbers", mend="write them like 10,14,18") from error


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("rfdetr_repro.family", description="Patch sizes that training never drew.")
    parser.add_argument("--run", required=True, type=Path, help="run folder of a supernet that was searched")
    parser.add_argument("--data", required=True, type=Path, help="COCO-format folder; the val split is evaluated")
    parser.add_argument("--patches", type=_numbers, help="default: even sizes around the trained ones")
    parser.add_argument("--resolutions", type=_numbers, default=[], help="default: those of the space")
    args = parser.parse_args(argv)
    from .search.__main__ import open_search

    words = "python -m rfdetr_repro.family " + " ".join(sys.argv[1:] if argv is None else argv)
    search = open_search(args.run, args.data, masks=False, command=words)
    with search.store.exclusive():
        records = evaluate(search, never_trained(search.space, args.patches or between(search.space), args.resolutions))
    trained = [record for record in search.store.read() if record.source == "search" and record.model.variant is None]
    print(render([family_table(records, trained)], "text"), end="")


if __name__ == "__main__":
    raise SystemExit(run_main(main))
