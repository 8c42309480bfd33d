"""Frontier of the search space of a trained run:

python -m rfdetr_repro.search --run runs/embedded --data runs/embedded/data [--engines 30] [--candidates 10]

Writes Records to RUN/records.jsonl and artifacts to RUN/artifacts; run it again to resume.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import InputError, run_main


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("rfdetr_repro.search", description="Every configuration -> AP and latency -> frontier.")
    parser.add_argument("--run", required=True, type=Path, help="run folder with supernet.safetensors")
    parser.add_argument("--data", required=True, help="COCO-format folder; the val split is searched on")
    parser.add_argument("--strategy", default="exhaustive", choices=("exhaustive", "race"))
    parser.add_argument("--engines", type=int, default=30, help="engines measured for the latency model")
    parser.add_argument("--candidates", type=int, default=10, help="frontier points that get the full protocol")
    args = parser.parse_args(argv)
    if args.strategy != "exhaustive":
        raise InputError(f"strategy {args.strategy} is not available yet", mend="use exhaustive")
    from tqdm import tqdm

    from ..bench.confirm import Context, confirm
    from ..campaign import EMBEDDED
    from ..data.annotations import ClassMap
    from ..data.coco import read_split
    from ..model.checkpoint import load_supernet
    from ..store import Store
    from .search import Search

    def bar(items: Iterable) -> Iterable:
        return tqdm(items, dynamic_ncols=True)

    detector, card, digest = load_supernet(args.run / "supernet.safetensors")
    if card.space is None:
        raise InputError("this model was trained for one architecture only", args.run, "train a supernet (without --fixed)")
    split = read_split(args.data, "val", ClassMap(card.category_ids, card.class_names))
    store = Store(args.run / "records.jsonl")
    context = Context("search", "python -m rfdetr_repro.search " + " ".join(sys.argv[1:] if argv is None else argv))
    search = Search(detector, card, digest, card.space, split, store, args.run / "artifacts", context, masks=card.config.masks)
    model, heldout = search.fit_latency(args.engines, progress=bar)
    print(f"latency model: held-out error median {heldout.median:.1%}, worst {heldout.maximum:.1%}")
    records = search.evaluate_all(model, heldout, bar)
    for arch in bar(search.candidates(records, args.candidates)):
        confirm(search.export(arch), [split], [EMBEDDED.buffered, EMBEDDED.sustained], store, context=context)
    print(f"{len(records)} configurations; Records in {store.path}")


if __name__ == "__main__":
    raise SystemExit(run_main(main))
