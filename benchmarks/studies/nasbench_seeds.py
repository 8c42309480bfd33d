"""How much of a ranking of architectures belongs to one training: the seeds of the benchmark.

    python -m benchmarks.studies.nasbench_seeds [--folder DIR] [--on onnxruntime-1]

Every pair of the benchmark's trainings and splits is compared, over all its architectures and over
the 162 that the pico campaign searches. The first two columns are the rank correlations of box AP,
Spearman's and Kendall's tau-b. The third is the hypervolume, in percent, that is lost if the
architectures that are best at their latency by the first training and split are used with the
second, measured by the AP of the second; the fourth is the same in the other direction.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

from rfdetr_repro.nasbench.bench import NasBench
from rfdetr_repro.search.hypervolume import hypervolume
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import InputError, run_main
from rfdetr_repro.spec.presets import PICO_SPACE

Points = dict[Arch, float]  # box AP or latency in ms of each architecture


class Compared(NamedTuple):
    """Two trainings or splits. ``lost``: hypervolume lost by the choice of the first with the
    second, and by the choice of the second with the first, as fractions.
    """

    spearman: float
    kendall: float
    lost: tuple[float, float]


def front(ap: Points, latency_ms: Points) -> list[Arch]:
    """The architectures with a higher AP than every faster architecture, fastest first."""
    ordered = sorted(ap, key=lambda arch: (latency_ms[arch], -ap[arch]))
    best = np.maximum.accumulate([ap[arch] for arch in ordered])
    risen = np.diff(best, prepend=-np.inf) > 0
    return [arch for arch, is_better in zip(ordered, risen, strict=True) if is_better]


def lost(chosen: Points, used: Points, latency_ms: Points) -> float:
    """The part of the hypervolume by ``used`` that the front of ``chosen`` does not cover."""
    kept = {arch: used[arch] for arch in front(chosen, latency_ms)}
    return 1 - hypervolume(kept, latency_ms) / hypervolume(used, latency_ms)


def compared(first: Points, second: Points, latency_ms: Points) -> Compared:
    """Two AP of the same architectures."""
    values = [[ap[arch] for arch in latency_ms] for ap in (first, second)]
    return Compared(
        float(stats.spearmanr(*values).statistic),
        float(stats.kendalltau(*values).statistic),
        (lost(first, second, latency_ms), lost(second, first, latency_ms)),
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a table for each set of architectures."""
    parser = argparse.ArgumentParser("benchmarks.studies.nasbench_seeds", description=__doc__)
    parser.add_argument("--folder", type=Path, help="folder of the benchmark's files")
    parser.add_argument("--on", default="onnxruntime-1", help="runtime and threads of latencies")
    args = parser.parse_args(argv)
    bench = NasBench.load(args.folder)
    if len(bench.parts) < 2:
        raise InputError("the benchmark holds one training and split", args.folder, "add another")
    for name, archs in (("all", bench.archs), ("pico campaign", tuple(PICO_SPACE))):
        latency_ms = {arch: bench.latency(arch, args.on).ms for arch in archs}
        print(f"\n| {name}: {len(archs)} architectures | Spearman | Kendall | lost | reversed |")
        print("|---|---|---|---|---|")
        for one, other in combinations(sorted(bench.parts), 2):
            aps = [
                {arch: float(bench.parts[key].ap[bench.place(arch), 0]) for arch in archs}
                for key in (one, other)
            ]
            found = compared(aps[0], aps[1], latency_ms)
            pair = " and ".join(f"seed {seed} on {split}" for seed, split in (one, other))
            losses = " | ".join(f"{100 * value:.2f}" for value in found.lost)
            print(f"| {pair} | {found.spearman:.3f} | {found.kendall:.3f} | {losses} |")


if __name__ == "__main__":
    raise SystemExit(run_main(main))
