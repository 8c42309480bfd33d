"""Boxes and masks drawn on images, and JSON:

python -m rfdetr_repro.predict IMAGE... --checkpoint FILE [--size NAME] [--arch KEY] [--shape HxW] [--threshold 0.3] [--out DIR]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .config import Arch, parse_shape
from .errors import InputError, run_main
from .files import write_atomic


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("rfdetr_repro.predict", description="Detect objects in images.")
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--checkpoint", required=True, help="model file: ours, released, transformers")
    parser.add_argument("--size", help="name of the size, where the file does not tell it")
    parser.add_argument("--arch", help="like r128-p16-w1-d2-q25 (default: the checkpoint's own)")
    parser.add_argument("--shape", type=parse_shape, help="input height x width in px, like 384x640 (default: the model's own)")
    parser.add_argument("--threshold", type=float, default=0.3, help="lowest score drawn and written, 0..1")
    parser.add_argument("--out", type=Path, default=Path("predictions"))
    args = parser.parse_args(argv)
    if not 0 <= args.threshold <= 1:
        raise InputError(f"threshold {args.threshold} is not in 0..1")
    names = [path.stem for path in args.images]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"two images are called {twice[0]}", args.out, "their pictures would overwrite each other")
    from .model.pretrained import load_pretrained  # torch loads slowly; arguments are checked first

    detector, card, _ = load_pretrained(args.checkpoint, args.size)
    arch = Arch.parse(args.arch) if args.arch else card.arch
    arch = arch.with_input(*args.shape) if args.shape else arch
    if arch.rounding:
        print(arch.rounding)
    subnet = detector.slice(arch)
    results = [_predict(subnet, card, path, args) for path in args.images]
    write_atomic(args.out / "predictions.json", json.dumps(results, indent=1))


def _predict(subnet: Any, card: Any, path: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Draws one image and returns its JSON entry: objects with original category ids and boxes in pixels."""
    from .data.segmentation import rle_of_bitmap
    from .detect import detect, load_picture
    from .pictures import best_of_each_box
    from .plots import detections_figure

    image = load_picture(path)
    (found,) = detect(subnet, [image], args.threshold)
    drawn = args.out / f"{path.stem}.png"
    detections_figure([image], [best_of_each_box(found)], drawn, class_names=card.class_names, min_score=0.0, columns=1)
    objects = [
        {
            "category_id": card.category_ids[int(label)],
            "class": card.class_names[int(label)],
            "score": round(float(score), 4),
            "box_xyxy": [round(float(value), 1) for value in box],
            **({} if found.masks is None else {"mask_rle": rle_of_bitmap(found.masks[row])}),
        }
        for row, (box, score, label) in enumerate(zip(found.boxes_xyxy, found.scores, found.labels, strict=True))
    ]
    print(f"{path}: {len(objects)} objects -> {drawn}")
    return {"image": path.name, "objects": objects}


if __name__ == "__main__":
    raise SystemExit(run_main(main))
