"""Boxes and masks drawn on images, and JSON:

python -m rfdetr_repro.predict IMAGE... --checkpoint runs/embedded/supernet.safetensors [--arch KEY] [--threshold 0.3] [--out DIR]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from .errors import InputError, run_main
from .files import write_atomic


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("rfdetr_repro.predict", description="Detect objects in images.")
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--checkpoint", required=True, help="model file (.safetensors)")
    parser.add_argument("--arch", help="like r128-p16-w1-d2-q25 (default: the checkpoint's own)")
    parser.add_argument("--threshold", type=float, default=0.3, help="lowest score drawn and written, 0..1")
    parser.add_argument("--out", type=Path, default=Path("predictions"))
    args = parser.parse_args(argv)
    if not 0 <= args.threshold <= 1:
        raise InputError(f"threshold {args.threshold} is not in 0..1")
    import torch

    from .config import Arch
    from .data.coco import ImageInfo, decode_image
    from .data.transforms import Sample, make_batch
    from .model.checkpoint import load_supernet
    from .pictures import as_annotations
    from .plots import detections_figure
    from .search.shared import detections_of

    detector, card, _ = load_supernet(args.checkpoint)
    arch = Arch.parse(args.arch) if args.arch else card.arch
    subnet = detector.slice(arch)
    results = []
    for number, path in enumerate(args.images):
        image = decode_image(path)
        empty = Sample(image, torch.zeros(0, 4).numpy(), torch.zeros(0, dtype=torch.int64).numpy(), None, number)
        info = ImageInfo(number, path, image.shape[1], image.shape[0])
        with torch.inference_mode():
            outputs = subnet(make_batch([empty], (arch.side, arch.side), None, 0.0, 0.0).images)
        (found,) = detections_of(outputs, [info], arch.queries, masks=card.config.masks)
        drawn = args.out / f"{path.stem}.png"
        annotations = as_annotations(found, *image.shape[:2])
        detections_figure([image], [annotations], drawn, class_names=card.class_names, min_score=args.threshold, columns=1)
        rows = [row for row in range(len(found.scores)) if found.scores[row] >= args.threshold]
        objects = [
            {
                "category_id": card.category_ids[int(found.labels[row])],
                "class": card.class_names[int(found.labels[row])],
                "score": round(float(found.scores[row]), 4),
                "box_xyxy": [round(float(value), 1) for value in found.boxes_xyxy[row]],
            }
            for row in rows
        ]
        results.append({"image": path.name, "objects": objects})
        print(f"{path}: {len(objects)} objects -> {drawn}")
    write_atomic(args.out / "predictions.json", json.dumps(results, indent=1))


if __name__ == "__main__":
    raise SystemExit(run_main(main))
