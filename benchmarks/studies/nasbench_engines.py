"""Latencies for the benchmark of architecture search: measures engines of its space on several
runtimes and numbers of threads, in a closed loop, and writes their Records.

    python -m benchmarks.studies.nasbench_engines --out FOLDER [--threads 1 2] [--engines 24] \
        [--backends onnxruntime openvino torch]
    rfdetr-repro nasbench --latencies FOLDER/records.jsonl --folder OUT

The engines of a runtime and number of threads take turns, in rounds. Weights and pictures do not
change a latency: the weights are those of the package, and the pictures composed. Engines whose
Records are in FOLDER are not measured again. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from rfdetr_repro.bench.confirm import Context
from rfdetr_repro.data.coco import read_split
from rfdetr_repro.data.embedded.dataset import write_embedded
from rfdetr_repro.data.source import DataSource
from rfdetr_repro.model.checkpoints.native import load_supernet
from rfdetr_repro.nasbench.space import SPACE
from rfdetr_repro.records.store import Store
from rfdetr_repro.runtime.backends import check_backend
from rfdetr_repro.search.deployment import Deployment
from rfdetr_repro.search.engines import engine_order, measure_engines
from rfdetr_repro.search.nasbench_latency import FEWEST, MODE
from rfdetr_repro.search.rounds import short_form
from rfdetr_repro.search.search import Search
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.arguments import whole
from rfdetr_repro.spec.errors import InputError, run_main
from rfdetr_repro.spec.presets import PICO_WEIGHTS
from rfdetr_repro.spec.protocol import Protocol

BACKENDS = ("onnxruntime", "openvino", "torch")
CAMPAIGN = "nasbench"


class Wanted(NamedTuple):
    """What is measured."""

    out: Path
    backend: str
    threads: int
    engines: int


def measure(wanted: Wanted) -> dict[Arch, float]:
    """Median latency in ms of each engine; the Records are in ``records.jsonl`` of the folder."""
    detector, card, digest = load_supernet(PICO_WEIGHTS)
    data = write_embedded(wanted.out / "data", splits=["val"])
    decision = Protocol(mode=MODE, buffer_ms=0.0, threads=wanted.threads)
    search = Search(
        detector,
        card,
        digest,
        SPACE,
        read_split(DataSource(data), "val"),
        Store(wanted.out / "records.jsonl"),
        wanted.out / "artifacts",
        Context(CAMPAIGN, "python -m benchmarks.studies.nasbench_engines", 0),
        deployment=Deployment(wanted.backend),
        decision=decision,
    )
    archs = engine_order(SPACE, 0)[: wanted.engines]
    return measure_engines(search, archs, short_form(decision))


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, and prints a line for each runtime and number of threads."""
    parser = argparse.ArgumentParser(
        "benchmarks.studies.nasbench_engines",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", required=True, type=Path, help="folder of Records and files")
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=list(BACKENDS))
    parser.add_argument("--threads", nargs="+", type=whole(1, 1024), default=[1, 2])
    parser.add_argument(
        "--engines", type=whole(FEWEST, 2295), default=24, help="engines of each (default 24)"
    )
    args = parser.parse_args(argv)
    if args.out.exists() and not args.out.is_dir():
        raise InputError("this is not a folder", args.out, "give a folder")
    for backend in args.backends:
        check_backend(backend)
    torch.set_num_threads(1)
    for backend in args.backends:
        for threads in args.threads:
            found = measure(Wanted(args.out, backend, threads, args.engines))
            slowest = max(found, key=lambda arch: found[arch])
            print(
                f"{backend}-{threads}: {len(found)} engines, {min(found.values()):.2f} to "
                f"{found[slowest]:.2f} ms ({slowest.key})",
                flush=True,
            )


if __name__ == "__main__":
    raise SystemExit(run_main(main))
