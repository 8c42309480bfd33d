"""Measure an artifact: latency by the protocol, and with --data its accuracy from the same file.

python -m rfdetr_repro.bench --onnx model.onnx --data DIR --split val --protocol both --out results/bench.jsonl
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import Protocol
from ..errors import InputError, run_main
from ..record import Accuracy, Record
from ..store import Store

if TYPE_CHECKING:
    from ..data.coco import CocoSplit
    from ..export.artifact import Artifact

FORMS, NORMALISE = ("decoded", "detr", "rows"), ("none", "imagenet")  # export/adopt.py explains them
MODES = {"buffered": ("buffered",), "sustained": ("sustained",), "both": ("buffered", "sustained")}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("rfdetr_repro.bench", description="Accuracy and latency of one artifact, as Records.")
    parser.add_argument("--onnx", required=True, help="artifact (.onnx) with its manifest beside it, or any detector's ONNX file")
    parser.add_argument("--form", choices=FORMS, help="of a file without manifest: its outputs; found from them by default")
    parser.add_argument("--normalise", choices=NORMALISE, default="none", help="of such a file: what its input needs after 0..1")
    parser.add_argument("--random-weights", action="store_true", help="of such a file: it is not trained, so latency only")
    parser.add_argument("--data", help="COCO-format folder; without it only latency is measured")
    parser.add_argument("--split", default="val")
    parser.add_argument("--protocol", choices=MODES, default="buffered", help="200 ms before each sample, closed loop, or both")
    parser.add_argument("--out", default="results/bench.jsonl", help="store to append to; what it holds is not measured again")
    parser.add_argument("--threads", type=int, default=Protocol.threads, help="intra-op threads of the runtime")
    parser.add_argument("--samples", type=int, default=Protocol.min_samples, help="least number of samples")
    args = parser.parse_args(argv)
    if args.threads < 1 or args.samples < 1:
        raise InputError(f"--threads {args.threads} and --samples {args.samples} must be at least 1")
    splits = []
    if args.data is not None:
        from ..data.coco import read_split  # slow to load, as what follows; arguments are checked first

        splits = [read_split(args.data, args.split)]
    artifact = artifact_of(args, splits)
    from .confirm import Context, confirm

    settings = dict(threads=args.threads, min_samples=args.samples, max_samples=max(args.samples, Protocol.max_samples))
    protocols = [Protocol(mode, **settings) for mode in MODES[args.protocol]]
    context = Context(command="python -m rfdetr_repro.bench " + " ".join(sys.argv[1:] if argv is None else argv))
    records = confirm(artifact, splits, protocols, Store(args.out), context=context)
    print("\n".join(lines(records)))
    print(f"records in {Path(args.out)}")


def artifact_of(args: argparse.Namespace, splits: Sequence[CocoSplit]) -> Artifact:
    """The artifact at ``--onnx``; a file without a manifest is adopted into ``adopted/`` beside the store, and that is said."""
    from ..export.artifact import load_artifact, manifest_path

    path = Path(args.onnx)
    if not path.is_file() or manifest_path(path).is_file():
        return load_artifact(path)
    from ..export.adopt import Categories, adopt

    categories = Categories(splits[0].classes.category_ids, splits[0].classes.names) if splits else None
    weights = "random" if args.random_weights else "trained"
    target = Path(args.out).parent / "adopted" / path.name
    artifact = adopt(path, target, categories=categories, form=args.form, normalise=args.normalise, weights=weights)
    height, width = artifact.manifest.input_hw
    print(f"{path} has no manifest: adopted as {target}, input {height}x{width} RGB 0..1, normalisation {args.normalise}")
    return artifact


def lines(records: Sequence[Record]) -> list[str]:
    """A small table; "-" is not measured. AP in percent."""
    rows = [("model", "data", "AP", "AP50", "mask AP", "protocol", "median ms (95 % CI)", "p90 ms", "images/s", "n", "file")]
    for record in records:
        boxes, masks, latency = record.accuracy, record.mask_accuracy, record.latency
        assert latency is not None and record.protocol is not None and record.artifact is not None
        rows.append(
            (
                record.model.name,
                "-" if record.data is None else f"{record.data.name}/{record.data.split}",
                _percent(boxes, "ap"),
                _percent(boxes, "ap50"),
                _percent(masks, "ap"),
                record.protocol.mode,
                f"{latency.median_ms:.2f} ({latency.ci_low_ms:.2f}-{latency.ci_high_ms:.2f})",
                "n/a" if latency.p90_ms is None else f"{latency.p90_ms:.2f}",
                "-" if latency.images_per_s is None else f"{latency.images_per_s:.1f}",
                str(latency.num_samples),
                record.artifact.sha256[:8],
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _percent(accuracy: Accuracy | None, metric: str) -> str:
    value = getattr(accuracy, metric, None)
    return "-" if value is None else f"{100 * value:.1f}"


if __name__ == "__main__":
    raise SystemExit(run_main(main))
