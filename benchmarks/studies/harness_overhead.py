"""What the protocol adds to a runtime's own time: its engine-scope median against a bare loop over
the same kind of session.

    python -m benchmarks.studies.harness_overhead                     a pico detector
    python -m benchmarks.studies.harness_overhead --onnx model.onnx   any artifact of this project

In each round the two take turns, in random order, for one block of samples: ``measure`` on
``session.launch``, and a loop of nothing but ``InferenceSession.run`` between two clock readings,
in a session of its own with the same options. Printed: both medians, their ratio with the 95 %
bootstrap interval over the rounds, and whether it stays within 1 %; exit code 1 if it is certain
not to. onnxruntime_perf_test, the runtime's own program, is in no package of PyPI or Debian; a bare
loop is what it does.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.ratios import ratio
from benchmarks.subjects import pico_artifact
from rfdetr_repro.bench.interleaved import BLOCK, measure
from rfdetr_repro.bench.scopes import example_input
from rfdetr_repro.export.artifact import Artifact, load_artifact
from rfdetr_repro.runtime.session import OrtSession
from rfdetr_repro.spec.arguments import MOST_THREADS, whole
from rfdetr_repro.spec.errors import run_main
from rfdetr_repro.spec.protocol import Protocol

LIMIT = 0.01
Samples = np.ndarray[Any, Any]


def bare_session(artifact: Artifact, threads: int, images: Samples) -> Callable[[], object]:
    """The runtime's own call, without this package: same file, same options."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(artifact.path), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    feed = {session.get_inputs()[0].name: images}
    return lambda: session.run(names, feed)


def bare_loop(call: Callable[[], object]) -> list[float]:
    """BLOCK times in ms."""
    found = []
    for _ in range(BLOCK):
        started = time.perf_counter()
        call()
        found.append(1e3 * (time.perf_counter() - started))
    return found


def compare(artifact: Artifact, rounds: int, threads: int) -> tuple[Samples, Samples]:
    """Times in ms (rounds, BLOCK) by the protocol and by the bare loop."""
    session = OrtSession(artifact, threads)
    images = example_input(session, None)
    session.bind(images)
    call = bare_session(artifact, threads, images)
    rng = random.Random(0)
    block = Protocol(
        "sustained", "engine", 0.0, warmup=1, min_samples=BLOCK, max_samples=BLOCK, threads=threads
    )
    found: dict[str, list[Any]] = {"protocol": [], "bare": []}
    for _ in range(rounds + 1):
        for name in rng.sample(sorted(found), 2):
            if name == "protocol":
                found[name].append(measure(session.launch, block).samples_ms)
            else:
                call()  # the protocol has its warm-up too
                found[name].append(bare_loop(call))
    return np.array(found["protocol"][1:]), np.array(found["bare"][1:])


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the overhead of the measurement loop; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--onnx",
        type=Path,
        help="artifact, with its manifest in the same folder (default: a pico detector with random "
        "weights)",
    )
    parser.add_argument(
        "--rounds", type=whole(1, 10**6), default=150, help=f"of {BLOCK} samples each"
    )
    parser.add_argument("--threads", type=whole(1, MOST_THREADS), default=2)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        artifact = load_artifact(args.onnx) if args.onnx else pico_artifact(Path(folder))
        ours, bare = compare(artifact, args.rounds, args.threads)
    found = ratio(ours, bare)
    print(
        f"{artifact.manifest.model.name}, {ours.size} samples each in {args.rounds} rounds, "
        f"{args.threads} threads"
    )
    print(f"protocol, engine scope: median {np.median(ours):.4f} ms, best {ours.min():.4f} ms")
    print(f"bare session loop:      median {np.median(bare):.4f} ms, best {bare.min():.4f} ms")
    certain = found.low > 1 + LIMIT or found.high < 1 - LIMIT
    within = 1 - LIMIT <= found.low and found.high <= 1 + LIMIT
    verdict = (
        "no" if certain else "yes" if within else "undecided: more rounds, or a quieter machine"
    )
    print(f"ratio {found}; within {LIMIT:.0%}: {verdict}")
    return 1 if certain else 0


if __name__ == "__main__":
    raise SystemExit(run_main(main))
