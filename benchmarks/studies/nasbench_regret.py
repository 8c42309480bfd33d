"""Which search method wins on the benchmark: hypervolume regret over image evaluations.

    python -m benchmarks.studies.nasbench_regret [--folder DIR] [--repeats 10] [--figure FILE.png]

Each method searches the 162 configurations of the pico campaign, all of which the benchmark holds,
with the benchmark's latencies. The table states the regret in percent of the hypervolume after
parts of the exhaustive search's image evaluations, as the mean and half-width of the 95 % interval
over the runs; the image evaluations and backbone passes of the whole run; the part after which at
most 0.5 % is lost; and the CPU time of a run's decisions. A method whose package is missing is left
out, and the reason is printed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rfdetr_repro.nasbench.bench import NasBench
from rfdetr_repro.search.nasbench_methods import METHODS
from rfdetr_repro.search.nasbench_regret import LOST, SHARES, Curve, curve, mean_and_reach
from rfdetr_repro.spec.arguments import whole
from rfdetr_repro.spec.errors import InputError, run_main
from rfdetr_repro.spec.presets import PICO_SPACE


def cell(values: np.ndarray) -> str:
    """Mean and half-width in percent; a dash where a run had recommended nothing yet."""
    mean, reach = mean_and_reach(values)
    return "–" if np.isnan(mean) else f"{100 * mean:.2f} ± {100 * reach:.2f}"


def rows(curves: Sequence[Curve]) -> list[list[str]]:
    """The table, one row for each method."""
    head = ["method", *(f"{share:.0%}" for share in SHARES)]
    head += ["evaluations", "backbone passes", "found after"]
    table = [[*head, "decisions"]]
    for one in curves:
        never = int(np.isnan(one.found).sum())
        found = cell(one.found) if not never else f"{never} of {len(one.found)} runs never"
        regret = [cell(one.regret[:, column]) for column in range(len(SHARES))]
        seconds = f"{np.mean(one.decisions_s):.2f} s"
        paid = [cell(one.evaluations), cell(one.passes)]
        table.append([one.method, *regret, *paid, found, seconds])
    return table


def draw(curves: Sequence[Curve], path: Path) -> None:
    """The curves with their intervals."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.6, 3.8), layout="constrained")
    for one in curves:
        ends = [mean_and_reach(one.regret[:, column]) for column in range(len(SHARES))]
        mean = 100 * np.array([end[0] for end in ends])
        reach = 100 * np.array([end[1] for end in ends])
        (line,) = axes.plot(SHARES, mean, marker="o", markersize=3, label=one.method)
        axes.fill_between(SHARES, mean - reach, mean + reach, color=line.get_color(), alpha=0.2)
    axes.axhline(100 * LOST, color="grey", linewidth=0.8, linestyle=":")
    axes.set_yscale("symlog", linthresh=0.1)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("image evaluations, part of the exhaustive search's")
    axes.set_ylabel("hypervolume lost, %")
    figure.legend(loc="outside right center", frameon=False, fontsize="small")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser("benchmarks.studies.nasbench_regret", description=__doc__)
    parser.add_argument("--folder", type=Path, help="folder of the benchmark's files")
    parser.add_argument("--repeats", type=whole(2, 10**4), default=10, help="runs of each method")
    parser.add_argument("--seed", type=int, default=0, help="training seed of the weights")
    parser.add_argument("--figure", type=Path, help="file to draw the curves to")
    args = parser.parse_args(argv)
    bench = NasBench.load(args.folder)
    bench.part(args.seed)  # what no method can be tried on is an error
    curves = []
    for method in METHODS:
        try:
            found = curve(method, bench, PICO_SPACE, seed=args.seed, repeats=args.repeats)
        except InputError as error:
            print(f"{method} is left out: {error}")
            continue
        curves.append(found)
        print(" | ".join(rows([found])[1]), flush=True)
    print()
    print("\n".join("| " + " | ".join(row) + " |" for row in rows(curves)))
    if args.figure:
        draw(curves, args.figure)


if __name__ == "__main__":
    raise SystemExit(run_main(main))
