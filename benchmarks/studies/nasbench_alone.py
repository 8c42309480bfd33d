"""Are the AP of the benchmark exact? Random architectures of one part, each evaluated alone.

    python -m benchmarks.studies.nasbench_alone --checkpoint FILE --data DIR --seed 0 --split val

The benchmark was built with passes that serve all decoders of a backbone at once. Here each
architecture is cut out of the supernet as a subnet of its own, runs alone, and is evaluated by the
project's evaluator. Printed are the largest differences of the AP of boxes and of masks. Weights
and images have to be those of the part, which their SHA-256 proves.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rfdetr_repro.data.coco import CocoSplit, read_split
from rfdetr_repro.data.coco_document import ClassMap
from rfdetr_repro.data.source import DataSource
from rfdetr_repro.evaluation.coco import CocoEvaluator
from rfdetr_repro.evaluation.predict_split import single_detections
from rfdetr_repro.model.checkpoints.native import load_supernet
from rfdetr_repro.model.detector import Detector
from rfdetr_repro.nasbench.bench import NasBench
from rfdetr_repro.nasbench.columns import Part
from rfdetr_repro.nasbench.space import SPACE
from rfdetr_repro.search.evaluation import keep_pictures
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.arguments import whole
from rfdetr_repro.spec.errors import InputError, run_main
from rfdetr_repro.spec.presets import PICO_WEIGHTS


class Difference(NamedTuple):
    """AP alone minus AP of the benchmark, as fractions."""

    boxes: float
    masks: float

    @property
    def largest(self) -> float:
        """The larger of the two without signs."""
        return max(abs(self.boxes), abs(self.masks))


def alone(arch: Arch, detector: Detector, split: CocoSplit) -> tuple[float, float]:
    """AP of boxes and of masks, as fractions, of the stand-alone subnet of ``arch``."""
    found = single_detections(detector.slice(arch), split, masks=True, arch=arch)
    evaluator = CocoEvaluator(split)
    boxes, masks = (evaluator.accuracy(found, kind).ap for kind in ("bbox", "segm"))
    assert boxes is not None and masks is not None  # a part has objects of both kinds
    return boxes, masks


def part_inputs(
    part: Part, checkpoint: Path, data: DataSource, split: str
) -> tuple[Detector, CocoSplit]:
    """The supernet and the split of ``part``. Raises :class:`InputError` for other weights or
    images than those that the part was built with.
    """
    detector, card, digest = load_supernet(checkpoint)
    if digest != part.about["checkpoint_sha256"]:
        raise InputError(
            "these weights did not build this part of the benchmark",
            checkpoint,
            f"give the file with SHA-256 {part.about['checkpoint_sha256']}",
        )
    images = read_split(data, split, ClassMap(card.category_ids, card.class_names))
    if images.sha256 != part.about["split_sha256"]:
        raise InputError(
            f"the split {split} is not the one that this part of the benchmark was built with",
            data,
            "write the images as docs/nasbench.md says",
        )
    keep_pictures(images)
    return detector, images


def differences(
    bench: NasBench, seed: int, split: str, detector: Detector, images: CocoSplit, archs: list[Arch]
) -> dict[Arch, Difference]:
    """The difference of each of ``archs``."""
    found = {}
    for arch in archs:
        boxes, masks = alone(arch, detector, images)
        answer = bench.query(arch, seed, split=split)
        assert answer.ap is not None and answer.mask_ap is not None  # whole splits have objects
        found[arch] = Difference(boxes - answer.ap, masks - answer.mask_ap)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Prints how far the architectures alone are from the benchmark."""
    parser = argparse.ArgumentParser("benchmarks.studies.nasbench_alone", description=__doc__)
    parser.add_argument("--folder", type=Path, help="the benchmark (default: the published files)")
    parser.add_argument("--checkpoint", type=Path, default=PICO_WEIGHTS, help="the supernet's file")
    parser.add_argument("--data", type=Path, required=True, help="the data set")
    parser.add_argument("--seed", type=whole(0, 10**6), default=0, help="the part's training seed")
    parser.add_argument("--split", choices=("val", "test"), default="val", help="the part's images")
    parser.add_argument("--count", type=whole(1, len(SPACE)), default=50, help="architectures")
    args = parser.parse_args(argv)
    bench = NasBench.load() if args.folder is None else NasBench.load(args.folder)
    part = bench.part(args.seed, args.split)
    source = DataSource(args.data)
    detector, images = part_inputs(part, args.checkpoint, source, args.split)
    archs = random.Random(args.seed).sample(list(SPACE), args.count)
    found = differences(bench, args.seed, args.split, detector, images, archs)
    equal = sum(one.largest < 1e-12 for one in found.values())
    print(
        f"seed {args.seed}, {args.split}: {len(found)} architectures alone, {equal} of them equal "
        f"to 1e-12; largest difference of AP {max(one.largest for one in found.values()):.1e}, "
        f"of {max(found, key=lambda arch: found[arch].largest).key}"
    )


if __name__ == "__main__":
    raise SystemExit(run_main(main))
