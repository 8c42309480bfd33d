"""Boxes and masks drawn on images, and JSON:

python -m rfdetr_repro.predict IMAGE... --checkpoint runs/embedded/supernet.safetensors [--arch KEY] [--threshold 0.3] [--out DIR]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .config import Arch
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
    from .model.checkpoint import load_supernet

    detector, card, _ = load_supernet(args.checkpoint)
    arch = Arch.parse(args.arch) if args.arch else card.arch
    if arch.rounding:
        print(arch.rounding)
    subnet = detector.slice(arch)
    results = [_predict(subnet, card, path, args) for path in args.images]
    write_atomic(args.out / "predictions.json", json.dumps(results, indent=1))


def _predict(subnet: Any, card: Any, path: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Draws one image and returns its JSON entry: objects with original category ids and boxes in pixels."""
    import torch

    from .data.coco import ImageInfo, decode_image
    from .data.transforms import normalise, resize_image
    from .pictures import as_annotations
    from .plots import detections_figure
    from .search.shared import detections_of

    image, arch = decode_image(path), subnet.arch
    pixels = torch.from_numpy(resize_image(image, (arch.side, arch.side)).copy()).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        outputs = subnet(normalise(pixels))
    info = ImageInfo(0, path, image.shape[1], image.shape[0])
    (found,) = detections_of(outputs, [info], arch.queries, masks=card.config.masks)
    drawn = args.out / f"{path.stem}.png"
    annotations = as_annotations(found, *image.shape[:2])
    detections_figure([image], [annotations], drawn, class_names=card.class_names, min_score=args.threshold, columns=1)
    objects = [
        {
            "category_id": card.category_ids[int(label)],
            "class": card.class_names[int(label)],
            "score": round(float(score), 4),
            "box_xyxy": [round(float(value), 1) for value in box],
        }
        for box, score, label in zip(found.boxes_xyxy, found.scores, found.labels, strict=True)
        if score >= args.threshold
    ]
    print(f"{path}: {len(objects)} objects -> {drawn}")
    return {"image": path.name, "objects": objects}


if __name__ == "__main__":
    raise SystemExit(run_main(main))
