"""The race against the exhaustive search of a trained supernet: what it costs and what it finds.

    python -m benchmarks.studies.race --run RUN --data DIR [--seeds 3] \
        [--confidence 0.95] [--margin 0.003] [--first 0.05]

Every configuration is matched once on every image; races of several seeds are then replayed from
these matches, which changes neither their decisions nor their cost in image evaluations. Latency:
the search Records of --records, or a model fitted in RUN. Printed: image evaluations and backbone
passes as fractions of the exhaustive search's, wall time of the decisions next to that of the
evaluations they leave (the exhaustive search's, timed here, times the part that is needed), and the
part of its hypervolume (AP from 0, latency up to 5 % beyond the slowest configuration) that the
survivors' frontier has.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from rfdetr_repro.data.coco import read_split
from rfdetr_repro.data.coco_document import ClassMap
from rfdetr_repro.evaluation.coco import CocoEvaluator
from rfdetr_repro.evaluation.matches import Matches, Objects, average_precision
from rfdetr_repro.model.checkpoints.native import load_supernet
from rfdetr_repro.records.store import read_stores
from rfdetr_repro.search.evaluation import GroupEvaluation, by_backbone, goal
from rfdetr_repro.search.hypervolume import hypervolume
from rfdetr_repro.search.race import Rules, race
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.arguments import whole
from rfdetr_repro.spec.errors import InputError, run_main


def known(found: Mapping[Arch, float | None], data: Path) -> dict[Arch, float]:
    """The accuracies; :class:`InputError` if one is unknown, for an unknown accuracy is not 0."""
    unknown = [arch.key for arch, ap in found.items() if ap is None]
    if unknown:
        raise InputError(
            f"AP of {len(unknown)} of {len(found)} configurations is unknown, e.g. {unknown[0]}",
            data,
            "give a val split with annotated objects",
        )
    return {arch: ap for arch, ap in found.items() if ap is not None}


def latencies(records: Sequence[Path], archs: Sequence[Arch]) -> dict[Arch, float]:
    """Modelled latencies of stored search Records."""
    found = {
        r.model.arch: r.latency.median_ms
        for r in read_stores(records)
        if r.source == "search" and r.model.arch and r.latency
    }
    if missing := [arch.key for arch in archs if arch not in found]:
        raise InputError(
            f"no modelled latency of {len(missing)} configurations, e.g. {missing[0]}",
            records[0],
            "search first",
        )
    return {arch: found[arch] for arch in archs}


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the savings of the race and the loss of the frontier."""
    parser = argparse.ArgumentParser("benchmarks.studies.race", description=__doc__)
    parser.add_argument("--run", required=True, type=Path)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument(
        "--records", type=Path, help="store with search Records (default: the run's)"
    )
    parser.add_argument("--metric", default="ap")
    parser.add_argument("--seeds", type=whole(1, 10**4), default=3)
    defaults = Rules()
    for name in ("confidence", "margin", "first", "growth"):
        parser.add_argument(f"--{name}", type=float, default=getattr(defaults, name))
    args = parser.parse_args(argv)
    rules = Rules(args.first, growth=args.growth, confidence=args.confidence, margin=args.margin)
    detector, card, _ = load_supernet(args.run / "supernet.safetensors")
    if card.space is None:
        raise InputError("this model was trained for one architecture only", args.run)
    split = read_split(args.data, "val", ClassMap(card.category_ids, card.class_names))
    split.cache_images()
    chosen = goal(args.metric)
    evaluation = GroupEvaluation(detector, split, chosen.kind == "segm")
    places = range(len(split))
    found: dict[Arch, Matches] = {}
    started = time.perf_counter()
    for group in by_backbone(card.space):
        found |= {
            arch: parts[chosen.kind] for arch, parts in evaluation.matches(group, places).items()
        }
    exhaustive_s = time.perf_counter() - started
    objects = Objects.of(CocoEvaluator(split))
    latency_ms = latencies([args.records or args.run / "records.jsonl"], list(found))
    exact = known(
        {
            arch: average_precision(one, objects, np.array(places), chosen.thresholds)
            for arch, one in found.items()
        },
        args.data,
    )

    def replay(archs: Sequence[Arch], part: Sequence[int]) -> dict[Arch, Matches]:
        return {
            arch: Matches(
                *(column[np.isin(found[arch].image, part)] for column in found[arch].columns())
            )
            for arch in archs
        }

    evaluations = len(found) * len(split)
    backbones = len({arch.backbone for arch in found})
    best = 100 * max(exact.values())
    summary = (
        f"{len(found)} configurations of {backbones} backbones, {len(split)} images; best "
        f"{chosen.metric} {best:.2f}"
    )
    print(f"{summary}; all evaluations took {exhaustive_s:.1f} s")
    for seed in range(args.seeds):
        outcome = race(latency_ms, objects, replay, chosen.thresholds, replace(rules, seed=seed))
        share = hypervolume(outcome.accuracy, latency_ms) / hypervolume(exact, latency_ms)
        passes = outcome.backbone_passes() / (backbones * len(split))
        print(
            f"seed {seed}: {outcome.evaluations() / evaluations:.1%} of the image evaluations, "
            f"{passes:.1%} of the backbone passes, hypervolume {share:.2%}, "
            f"{len(outcome.accuracy)} survivors; evaluations about {passes * exhaustive_s:.1f} s, "
            f"decisions {outcome.decision_s:.1f} s, together "
            f"{(passes * exhaustive_s + outcome.decision_s) / exhaustive_s:.1%} of the exhaustive "
            f"search's time"
        )


if __name__ == "__main__":
    raise SystemExit(run_main(main))
