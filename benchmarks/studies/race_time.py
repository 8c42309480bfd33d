"""What a race saves of the exhaustive search's time: each as a whole process of its own, with the
same weights, images and latencies.

    python -m benchmarks.studies.race_time --data DIR --out FILE.jsonl --strategy exhaustive
    python -m benchmarks.studies.race_time --data DIR --out FILE.jsonl --strategy race --seed 0
    python -m benchmarks.studies.race_time --out FILE.jsonl

Either strategy is the search's own code on one thread, with its store and its files: the pico
space, boxes, the weights of the package, and a latency model fitted to the engines of --records,
which is not part of what is compared but runs in both. The CPU time is that of the process from its
start, imports and loading included. An exhaustive search that was stopped goes on when the command
is repeated; its CPU time is that of the first start and of the backbones, each counted once. The
last form prints the table: image evaluations, backbone passes, CPU time and hypervolume of each
race as parts of the exhaustive search's; of repeated exhaustive searches the mean counts.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rfdetr_repro.data.coco import read_split
from rfdetr_repro.data.coco_document import ClassMap
from rfdetr_repro.model.checkpoints.native import load_supernet
from rfdetr_repro.records.store import Store, read_stores
from rfdetr_repro.search.deployment import Deployment
from rfdetr_repro.search.evaluation import by_backbone, keep_pictures
from rfdetr_repro.search.hypervolume import hypervolume
from rfdetr_repro.search.nasbench_latency import MODE, fit_of_engines
from rfdetr_repro.search.race import Rules
from rfdetr_repro.search.search import Search
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.arguments import whole
from rfdetr_repro.spec.errors import InputError, run_main
from rfdetr_repro.spec.files import write_atomic
from rfdetr_repro.spec.presets import PICO_SPACE, PICO_WEIGHTS

STRATEGIES = ("exhaustive", "race")
# field of a row -> what all searches that are compared must have in common
SAME = {"split_sha256": "images", "weights_sha256": "weights", "latency_ms": "latencies"}
SAME_AP = 1e-6  # the last digits of an AP may depend on the images that share a batch
THREADS = 1  # of the searches, and of the engines whose latencies they use


class Sessions:
    """CPU time in s of a search that may be stopped and go on, kept in a file: that of the first
    start, and of each backbone.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.process_time) -> None:
        """``path``: the file, which a stopped search left or which does not exist yet; ``clock``:
        CPU time in s of this process since its start.
        """
        self.path = path
        self.clock = clock
        self.before = clock()
        started = round(self.before, 2)
        self.parts: list[float] = json.loads(path.read_text()) if path.exists() else [started]

    def progress(self, items: Iterable[Any]) -> Iterator[Any]:
        """The items; the time of each is kept once it has been dealt with."""
        for item in items:
            yield item
            now = self.clock()
            self.parts.append(round(now - self.before, 3))
            self.before = now
            write_atomic(self.path, json.dumps(self.parts))

    def total(self) -> float:
        """What was kept, and what passed since."""
        return round(sum(self.parts) + self.clock() - self.before, 2)


def searched(strategy: str, seed: int, data: Path, records: Path, folder: Path) -> dict[str, Any]:
    """One search; its CPU time in s since the process began, what it evaluated, and the AP and
    latency in ms of the configurations that it hands over.
    """
    torch.set_num_threads(THREADS)
    detector, card, digest = load_supernet(PICO_WEIGHTS)
    split = read_split(data, "val", ClassMap(card.category_ids, card.class_names))
    keep_pictures(split)
    fit = fit_of_engines(read_stores([records]), str(Deployment()), THREADS, MODE, card.config)
    archs = list(PICO_SPACE)
    store = Store(folder / "records.jsonl")
    search = Search(
        detector, card, digest, PICO_SPACE, split, store, folder / "artifacts", masks=False
    )
    cost: dict[str, float] = {
        "evaluations": len(archs) * len(split),
        "passes": len(list(by_backbone(archs))) * len(split),
        "decisions_s": 0.0,
    }
    if strategy == "race":
        found, outcome = search.race(fit.model, fit.error, rules=Rules(seed=seed))
        cost = {
            "evaluations": outcome.evaluations(),
            "passes": outcome.backbone_passes(),
            "decisions_s": round(outcome.decision_s, 3),
        }
        cpu_s = round(time.process_time(), 2)
    else:
        sessions = Sessions(folder / "sessions.json")
        found = search.evaluate_all(fit.model, fit.error, sessions.progress)
        cpu_s = sessions.total()
    return {
        "strategy": strategy,
        "seed": seed,
        "images": len(split),
        "split_sha256": split.sha256,
        "weights_sha256": digest,
        "cpu_s": cpu_s,
        **cost,
        "ap": {one.as_searched().arch.key: one.as_accuracy().ap for one in found},
        "latency_ms": {arch.key: fit.model.predict(arch) for arch in archs},
    }


def _check_same(rows: Sequence[dict[str, Any]], reference: dict[str, Any]) -> None:
    """Raises :class:`InputError` unless all rows come from the images, weights and latencies of
    ``reference``, an exhaustive search, and repeat its AP.
    """
    for row in rows:
        different = [told for name, told in SAME.items() if row.get(name) != reference.get(name)]
        ap = row["ap"]
        if ap.keys() - reference["ap"].keys() or any(
            abs(value - reference["ap"][key]) > SAME_AP for key, value in ap.items()
        ):
            different.append("AP")
        if different:
            raise InputError(
                f"a search differs from the first exhaustive search in {', '.join(different)}",
                f"{row['strategy']}, seed {row['seed']}",
                "repeat both searches with the same --data and --records and another --out",
            )


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The table of the races against the exhaustive searches. Raises :class:`InputError` for rows
    that cannot be compared.
    """
    whole_rows = [row for row in rows if row["strategy"] == "exhaustive"]
    races = [row for row in rows if row["strategy"] == "race"]
    if not whole_rows or not races:
        raise InputError("a comparison needs an exhaustive search and a race", hint="run both")
    _check_same(rows, whole_rows[0])
    reference = whole_rows[0]
    latency_ms = {Arch.parse(key): ms for key, ms in reference["latency_ms"].items()}

    def volume(row: dict[str, Any]) -> float:
        return hypervolume({Arch.parse(key): ap for key, ap in row["ap"].items()}, latency_ms)

    times = [row["cpu_s"] for row in whole_rows]
    lines = [
        f"{len(latency_ms)} configurations, {reference['images']} images; exhaustive: "
        + ", ".join(f"{one:.1f} s" for one in times),
        "",
        "| race | image evaluations | backbone passes | CPU time | of which decisions "
        "| hypervolume |",
        "|---|---|---|---|---|---|",
    ]
    for row in races:
        parts = [row[name] / reference[name] for name in ("evaluations", "passes")]
        shown = [f"{part:.1%}" for part in (*parts, row["cpu_s"] / float(np.mean(times)))]
        shown[-1] += f" ({row['cpu_s']:.1f} s)"
        share = volume(row) / volume(reference)
        lines.append(
            f"| seed {row['seed']} | {' | '.join(shown)} | {row['decisions_s']:.1f} s | "
            f"{share:.2%} |"
        )
    return lines


def _append(path: Path, row: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one search, or prints the table."""
    parser = argparse.ArgumentParser("benchmarks.studies.race_time", description=__doc__)
    parser.add_argument("--out", required=True, type=Path, help="file to add the results to")
    parser.add_argument("--strategy", choices=STRATEGIES)
    parser.add_argument("--data", type=Path, help="data set with a val split")
    parser.add_argument("--seed", type=whole(0, 10**6), default=0, help="seed of the race")
    parser.add_argument("--records", type=Path, default=Path("results/pico.jsonl"))
    args = parser.parse_args(argv)
    if args.strategy is None:
        lines = args.out.read_text(encoding="utf-8").splitlines()
        try:
            print("\n".join(table([json.loads(line) for line in lines])))
        except InputError as error:
            raise error.at(args.out) from error
        return
    if args.data is None:
        raise InputError("a search needs images", "--data", "add --data DIR")
    if args.strategy == "exhaustive":  # goes on where it stopped
        folder = args.out.with_suffix(".exhaustive")
        folder.mkdir(parents=True, exist_ok=True)
        row = searched(args.strategy, args.seed, args.data, args.records, folder)
        _append(args.out, row)
        shutil.rmtree(folder)
    else:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            row = searched(args.strategy, args.seed, args.data, args.records, place)
        _append(args.out, row)
    print(f"{args.strategy}: {row['cpu_s']:.1f} s of CPU time, {row['evaluations']} evaluations")


if __name__ == "__main__":
    raise SystemExit(run_main(main))
