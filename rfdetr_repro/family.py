"""Patch sizes that training never drew, and the family of one resolution (paper: 640 px with patches of 27, 21 and 18):

python -m rfdetr_repro.family --run RUN --data DIR [--patches 10,14,18,24] [--resolutions 128,160]

The patch kernel is resampled to each size as to the trained ones, nothing is learned. Records have the variant NEVER_TRAINED and
stay out of frontiers and figures of the space; printed is each beside the trained architecture with as many tokens, both with
the space's largest decoder.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rfdetr_repro.data.source import add_data_arguments, source_of
from rfdetr_repro.records.record import NEVER_TRAINED, Record
from rfdetr_repro.spec.arguments import input_folder, wholes
from rfdetr_repro.spec.config import MAX_SIDE, Arch, SearchSpace
from rfdetr_repro.spec.errors import ArgumentParser, InputError, run_main
from rfdetr_repro.tables.family import family_table
from rfdetr_repro.tables.format import render


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
    from rfdetr_repro.search.evaluation import Whole

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


def main(argv: Sequence[str] | None = None) -> None:
    parser = ArgumentParser("rfdetr_repro.family", description="Patch sizes that training never drew.")
    parser.add_argument("--run", required=True, type=input_folder, help="run folder of a supernet that was searched")
    add_data_arguments(parser, "the val split is evaluated", ("val",))
    parser.add_argument(
        "--patches", type=wholes(1, 10_000), help="patch sides in px, like 10,14,18; default: even sizes around the trained ones"
    )
    parser.add_argument(
        "--resolutions", type=wholes(1, MAX_SIDE), default=[], help="image sides in px; default: those of the space"
    )
    args = parser.parse_args(argv)
    args.data = source_of(args, ("val",))
    from rfdetr_repro.data.census import print_census
    from rfdetr_repro.search.command import open_search

    words = "python -m rfdetr_repro.family " + " ".join(sys.argv[1:] if argv is None else argv)
    search = open_search(args.run, args.data, masks=False, command=words)
    print_census([search.split])
    with search.store.exclusive():
        records = evaluate(search, never_trained(search.space, args.patches or between(search.space), args.resolutions))
    trained = [record for record in search.store.read() if record.source == "search" and record.model.variant is None]
    print(render([family_table(records, trained)], "text"), end="")


if __name__ == "__main__":
    raise SystemExit(run_main(main))
