"""Our ONNX files against those that PyTorch's exporter makes of transformers' RF-DETR with equal
weights, in ONNX Runtime.

    python -m benchmarks.studies.onnx_exports                    # Nano and Seg-Nano, both contracts
    python -m benchmarks.studies.onnx_exports --sizes nano --rounds 60 --profile

Equal work: "decoded" ends in ranked scores, labels, xyxy boxes and masks, "upstream" in raw boxes,
logits and masks; ours takes RGB in 0..1 and normalises inside (in the weights, at no cost), the
others take normalised pixels. Same options, same threads, in turns. Printed: both times, their
ratio (above 1: ours is faster) with its interval, and how far the outputs are apart. ``--profile``
adds the operators by their time. Exit code 1 when ours is certainly slower anywhere.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.ratios import Ratio, ratio, turns_ms
from benchmarks.subjects import both, export_theirs, random_meta
from rfdetr_repro.data.network_input import normalise
from rfdetr_repro.export.onnx.exporter import export_onnx
from rfdetr_repro.spec.arguments import MOST_THREADS, whole
from rfdetr_repro.spec.errors import run_main
from rfdetr_repro.spec.optional import optional_module
from rfdetr_repro.spec.presets import PRESETS

NEEDED = {"transformers.models.rf_detr": "transformers>=5", "onnxscript": "onnxscript"}
CONTRACTS = ("decoded", "upstream")
Array = np.ndarray[Any, Any]


def export(size: str, folder: Path, contracts: Sequence[str]) -> None:
    """Writes SIZE-CONTRACT-ours.onnx and -theirs.onnx, those that are not there."""
    wanted = [
        contract
        for contract in contracts
        if not (folder / f"{size}-{contract}-theirs.onnx").is_file()
    ]
    if not wanted:
        return
    for module, package in NEEDED.items():
        optional_module(module, f"{package} is not installed", f"pip install '{package}'")
    row = PRESETS[size]
    theirs, ours = both(row)
    subnet = ours.eval().slice(row.arch)
    meta = random_meta(size, row.model.num_classes)
    for contract in wanted:
        export_onnx(subnet, folder / f"{size}-{contract}-ours.onnx", meta=meta, contract=contract)
        export_theirs(theirs, folder / f"{size}-{contract}-theirs.onnx", contract, row)


def open_file(path: Path, threads: int, profile: bool = False) -> onnxruntime.InferenceSession:
    """An ONNX Runtime session on the CPU with ``threads`` threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_profiling = profile
    options.profile_file_prefix = str(path.with_suffix(""))
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def feeds(side_hw: tuple[int, int], contract: str) -> dict[str, Array]:
    """The same picture for both: ours takes it in 0..1 where it normalises itself."""
    image = np.random.default_rng(0).random((1, 3, *side_hw), dtype=np.float32)
    normalised = normalise(image)
    return {"ours": image if contract == "decoded" else normalised, "theirs": normalised}


def compare(size: str, contract: str, folder: Path, rounds: int, threads: int) -> Ratio:
    """Prints a line; returns theirs over ours."""
    images = feeds(PRESETS[size].arch.input_hw, contract)
    paths = {name: folder / f"{size}-{contract}-{name}.onnx" for name in images}
    sessions = {name: open_file(path, threads) for name, path in paths.items()}
    calls = {
        name: partial(session.run, None, {session.get_inputs()[0].name: images[name]})
        for name, session in sessions.items()
    }
    apart = max(_apart(a, b) for a, b in zip(calls["ours"](), calls["theirs"](), strict=True))
    times = turns_ms(calls, rounds)
    found = ratio(times["theirs"], times["ours"])
    middle = {
        name: f"{np.median(samples):.1f} (best {samples.min():.1f})"
        for name, samples in times.items()
    }
    print(
        f"{size:<10} {contract:<9} {middle['ours']:>22} {middle['theirs']:>22}  {found}; outputs "
        f"{apart:.1e} apart",
        flush=True,
    )
    return found


def _apart(first: Array, second: Array) -> float:
    """Largest difference of sorted values: two ranks of nearly equal score may change places."""
    return float(
        np.abs(
            np.sort(first.ravel().astype(np.float64)) - np.sort(second.ravel().astype(np.float64))
        ).max()
    )


def operators(path: Path, image: Array, threads: int, rounds: int = 5) -> Counter[str]:
    """Best time in ms of every node as the runtime ran it, summed by operator."""
    session = open_file(path, threads, profile=True)
    for _ in range(rounds):
        session.run(None, {session.get_inputs()[0].name: image})
    events = json.loads(Path(session.end_profiling()).read_text())
    best = dict[str, tuple[str, float]]()
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            kind = event["args"]["op_name"]
            ms = event["dur"] / 1e3
            best[event["name"]] = kind, min(ms, best.get(event["name"], (kind, ms))[1])
    totals: Counter[str] = Counter()
    for kind, ms in best.values():
        totals[kind] += ms
    return totals


def print_operators(size: str, contract: str, folder: Path, threads: int) -> None:
    """Prints the operators that take the most time."""
    images = feeds(PRESETS[size].arch.input_hw, contract)
    for name, image in images.items():
        found = operators(folder / f"{size}-{contract}-{name}.onnx", image, threads)
        print(
            f"{name:<7} {sum(found.values()):8.1f} ms  "
            + ", ".join(f"{kind} {ms:.1f}" for kind, ms in found.most_common(14))
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the comparison of exports; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sizes", nargs="+", default=["nano", "seg-nano"], choices=PRESETS, metavar="SIZE"
    )
    parser.add_argument("--contracts", nargs="+", default=CONTRACTS, choices=CONTRACTS)
    parser.add_argument("--rounds", type=whole(1, 10**6), default=40)
    parser.add_argument("--threads", type=whole(1, MOST_THREADS), default=2)
    parser.add_argument(
        "--folder", type=Path, help="keeps the files, and uses those that are there"
    )
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args(argv)
    slower = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for size in args.sizes:
            export(size, folder, args.contracts)
        print(f"{args.rounds} rounds, {args.threads} threads")
        print(f"{'size':<10} {'contract':<9} {'ours ms':>22} {'theirs ms':>22}  theirs / ours")
        for size in args.sizes:
            for contract in args.contracts:
                if compare(size, contract, folder, args.rounds, args.threads).high < 1:
                    slower.append(f"{size} {contract}")
                if args.profile:
                    print_operators(size, contract, folder, args.threads)
    print(f"certainly slower: {', '.join(slower) or 'nowhere'}")
    return 1 if slower else 0


if __name__ == "__main__":
    raise SystemExit(run_main(main))
