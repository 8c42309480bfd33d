"""The sandwich rule against uniform sampling, at embedded scale: what each configuration's AP is
after as many steps or passes.

    python -m benchmarks.studies.sampling --data DIR --out RUNS [--steps 1500] [--seeds 1] \
        [--weights FILE]
        [--page docs/sampling.md]

A step of the sandwich rule passes the largest, the smallest and a random architecture (arXiv
1903.05134), a step of the paper's sampling one. Three runs per seed: uniform, sandwich with a third
of the steps (as many passes) and with as many steps. All configurations of the space are evaluated
on the val split; hypervolume is the area under the frontier of AP over operations. Interrupted runs
resume.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.studies.race import hypervolume, known
from rfdetr_repro.data.coco import read_split
from rfdetr_repro.data.coco_document import ClassMap
from rfdetr_repro.model.checkpoints.native import load_supernet
from rfdetr_repro.search.evaluation import GroupEvaluation, by_backbone
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.arguments import whole
from rfdetr_repro.spec.errors import run_main
from rfdetr_repro.spec.files import write_atomic
from rfdetr_repro.spec.flops import total_flops
from rfdetr_repro.spec.presets import PICO, PICO_SPACE
from rfdetr_repro.train.command import main as train
from rfdetr_repro.train.recipe import extremes
from rfdetr_repro.train.run_log import read_log


class Variant(NamedTuple):
    """One way to spend the steps."""

    name: str
    sampling: str
    steps: int


def variants(steps: int) -> list[Variant]:
    """The training variants that are compared, with equal numbers of steps."""
    third = max(steps // 3, 1)
    return [
        Variant(f"uniform, {steps} steps", "uniform", steps),
        Variant(f"sandwich, {third} steps (as many passes)", "sandwich", third),
        Variant(f"sandwich, {steps} steps", "sandwich", steps),
    ]


def accuracies(run: Path, data: Path) -> dict[Arch, float]:
    """Box AP of every configuration of the run's EMA weights on the val split, 0 to 1."""
    detector, card, _ = load_supernet(run / "supernet.safetensors")
    split = read_split(data, "val", ClassMap(card.category_ids, card.class_names))
    split.cache_images()
    evaluation = GroupEvaluation(detector, split, masks=False)
    found: dict[Arch, float | None] = {}
    for group in by_backbone(card.space or PICO_SPACE):
        found |= {arch: kinds["bbox"].ap for arch, kinds in evaluation.accuracies(group).items()}
    return known(found, data)


def seconds(run: Path) -> float:
    """Training time of a run in s, from its log."""
    return max(line["seconds"] for line in read_log(run) if "seconds" in line)


def row(name: str, results: Sequence[tuple[Mapping[Arch, float], float]]) -> str:
    """Means over seeds; AP in points."""
    largest, smallest = extremes(PICO.model, PICO_SPACE)
    operations = {arch: total_flops(PICO.model, arch, "eager") / 1e9 for arch in results[0][0]}
    columns: list[list[float]] = [
        [float(np.mean(list(found.values()))) for found, _ in results],
        *[[found[arch] for found, _ in results] for arch in (largest, smallest, PICO.arch)],
        [max(found.values()) for found, _ in results],
        [
            hypervolume(found, operations)
            / (1.05 * max(operations.values()) - min(operations.values()))
            for found, _ in results
        ],
    ]
    cells = " | ".join(" / ".join(f"{100 * value:.1f}" for value in column) for column in columns)
    return f"| {name} | {cells} | {np.mean([spent for _, spent in results]):.0f} |"


def main(argv: Sequence[str] | None = None) -> None:
    """Trains the variants and prints their APs."""
    parser = argparse.ArgumentParser("benchmarks.studies.sampling", description=__doc__)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--steps", type=whole(1, 10**9), default=1500)
    parser.add_argument("--seeds", type=whole(1, 10**4), default=1)
    parser.add_argument("--weights", type=Path, help="start from these instead of from nothing")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of the recipe, for every run",
    )
    parser.add_argument("--page", type=Path)
    args = parser.parse_args(argv)
    lines = [
        "| run | mean of all | largest | smallest | base | best | under the frontier | training, "
        "s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for variant in variants(args.steps):
        results = [_result(args, variant, seed) for seed in range(args.seeds)]
        lines.append(row(variant.name, results))
        print(lines[-1], flush=True)
    text = "\n".join(lines)
    if args.page:
        write_atomic(args.page, f"{text}\n")
    print(text)


def _result(
    args: argparse.Namespace, variant: Variant, seed: int
) -> tuple[dict[Arch, float], float]:
    run = args.out / f"{variant.sampling}-{variant.steps}-seed{seed}"
    kept = run / "accuracies.json"
    if not kept.exists():
        command = [
            "--data",
            str(args.data),
            "--out",
            str(run),
            "--size",
            "pico",
            "--steps",
            str(variant.steps),
            "--seed",
            str(seed),
        ]
        command += ["--sampling", variant.sampling, "--evaluate-every", str(variant.steps)]
        command += ["--weights", str(args.weights)] if args.weights else []
        train([*command, *(part for setting in args.set for part in ("--set", setting))])
        found = accuracies(run, args.data)
        write_atomic(kept, json.dumps([{**arch.knobs(), "ap": ap} for arch, ap in found.items()]))
    rows = json.loads(kept.read_text())
    return {
        Arch(**{key: value for key, value in one.items() if key != "ap"}): one["ap"] for one in rows
    }, seconds(run)


if __name__ == "__main__":
    raise SystemExit(run_main(main))
