"""What sharing saves at the paper's proportions: the 28 decoder variants of Nano's backbone,
together and one by one.

    python -m benchmarks.studies.shared_search [--images 4] [--rounds 3] \
        [--arch r384-p16-w2-d6-q300] [--masks]

Random weights of the paper's supernet on composed images: time does not depend on either. Both ways
give detections from decoded images to ranked boxes and masks, in turns; printed are the ratio of
the median times and the largest difference of predictions.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from rfdetr_repro.data.coco import CocoSplit, read_split
from rfdetr_repro.data.embedded.dataset import EmbeddedConfig, write_embedded
from rfdetr_repro.evaluation.coco import ImageDetections
from rfdetr_repro.evaluation.predict_split import single_detections
from rfdetr_repro.model.detector import Detector
from rfdetr_repro.search.evaluation import shared_detections
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.arguments import MOST_THREADS, whole
from rfdetr_repro.spec.errors import run_main
from rfdetr_repro.spec.presets import PAPER_SPACE, PAPER_SUPERNET


def variants(arch: Arch) -> list[Arch]:
    """Every decoder of the paper's space on the backbone of ``arch``."""
    return [
        replace(arch, decoder_layers=depth, queries=queries)
        for depth in PAPER_SPACE.decoder_layers
        for queries in PAPER_SPACE.queries
    ]


def one_by_one(
    detector: Detector, split: CocoSplit, archs: Sequence[Arch], masks: bool
) -> dict[Arch, list[ImageDetections]]:
    """Detections of each architecture by its own pass."""
    return {arch: single_detections(detector.slice(arch), split, masks=masks) for arch in archs}


def difference(ours: list[ImageDetections], theirs: list[ImageDetections]) -> float:
    """Largest of the score differences and the box differences, boxes as parts of 160 px."""
    gaps = [0.0]
    for one, other in zip(ours, theirs, strict=True):
        gaps.append(float(np.abs(one.scores - other.scores).max(initial=0.0)))
        for score in np.unique(one.scores):  # equal scores may stand in another order
            pair = [
                np.sort(found.boxes_xyxy[np.isclose(found.scores, score, atol=1e-6)], axis=0)
                for found in (one, other)
            ]
            if len(pair[0]) == len(pair[1]):
                gaps.append(float(np.abs(pair[0] - pair[1]).max(initial=0.0)) / 160)
    return max(gaps)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the times of shared and single passes."""
    parser = argparse.ArgumentParser("benchmarks.studies.shared_search", description=__doc__)
    parser.add_argument("--images", type=whole(1, 10**6), default=4)
    parser.add_argument("--rounds", type=whole(1, 10**4), default=3)
    parser.add_argument("--arch", default="r384-p16-w2-d6-q300")
    parser.add_argument("--masks", action="store_true")
    parser.add_argument("--threads", type=whole(1, MOST_THREADS), default=torch.get_num_threads())
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = PAPER_SUPERNET.model if args.masks else replace(PAPER_SUPERNET.model, masks=False)
    detector = Detector(model, PAPER_SUPERNET.arch).eval()
    archs = variants(Arch.parse(args.arch))
    with tempfile.TemporaryDirectory() as folder:
        data = write_embedded(
            Path(folder),
            EmbeddedConfig(train_images=1, val_images=args.images, test_images=1),
            workers=1,
        )
        split = read_split(data, "val")
        split.cache_images()
        seconds: dict[str, list[float]] = {"shared": [], "one by one": []}
        gap = 0.0
        for _ in range(args.rounds):
            started = time.perf_counter()
            shared = shared_detections(detector, split, archs, masks=args.masks)
            seconds["shared"].append(time.perf_counter() - started)
            started = time.perf_counter()
            alone = one_by_one(detector, split, archs, args.masks)
            seconds["one by one"].append(time.perf_counter() - started)
            gap = max(gap, *(difference(shared[arch], alone[arch]) for arch in archs))
    for name, values in seconds.items():
        print(
            f"{name}: {statistics.median(values):.2f} s for {len(archs)} configurations on "
            f"{args.images} images ({values})"
        )
    ratios = [theirs / ours for ours, theirs in zip(*seconds.values(), strict=True)]
    print(
        f"ratio {statistics.median(ratios):.1f}x ({min(ratios):.1f} to {max(ratios):.1f}); largest "
        f"difference {gap:.1e}"
    )


if __name__ == "__main__":
    raise SystemExit(run_main(main))
