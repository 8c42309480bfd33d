"""Detects objects in images, draws boxes and masks, and writes JSON:

python -m rfdetr_repro.predict IMAGE|FOLDER... --checkpoint FILE [--size NAME] \
    [--arch KEY] [--shape HxW] [--threshold 0.3]
"""

from __future__ import annotations

import argparse
import json
import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rfdetr_repro.spec.arguments import (
    ArgumentParser,
    add_antialias,
    add_architecture,
    add_file_facts,
    add_model,
    number,
    output_folder,
)
from rfdetr_repro.spec.errors import InputError, run_main
from rfdetr_repro.spec.files import write_atomic
from rfdetr_repro.spec.labels import labels_given
from rfdetr_repro.spec.presets import parse_arch
from rfdetr_repro.spec.resize_rules import ANTIALIASED, describe, with_antialias

log = logging.getLogger(__name__)

# suffixes of images that are found in a folder
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".avif"}

DRAWN_PIXELS = 1 << 22  # largest number of pixels of a drawn image


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    arguments = ArgumentParser(
        "rfdetr_repro.predict",
        description=(
            "Detects objects in images, draws boxes and masks, and writes predictions.json."
        ),
        examples=(
            "predict IMAGE.jpg --model runs/mine",
            "predict IMAGES --model FILE.pth --size nano --threshold 0.5 --out predictions",
        ),
    )
    add = arguments.add_argument
    add(
        "images",
        nargs="+",
        help="images, or folders whose images are all used, without sub-folders",
    )
    add_model(arguments, "--checkpoint")
    add_file_facts(arguments)
    add_architecture(arguments)
    add(
        "--threshold",
        type=number(0, 1),
        default=0.3,
        help="lowest score, in 0..1, of detections that are drawn and written",
    )
    add_antialias(arguments)
    add(
        "--out",
        type=output_folder,
        default=Path("predictions"),
        help="folder to write predictions.json and the drawn images to",
    )
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Detects objects in the images that ``argv`` names; raises :class:`InputError` for a missing
    image or a bad checkpoint.
    """
    args = parser().parse_args(argv)
    asked = None if args.arch is None else parse_arch(args.arch)
    pictures = find_pictures(args.images)
    drawn = [args.out / name for name in drawn_names(pictures)]
    from rfdetr_repro.data.decoding import check_header

    for path in pictures:
        check_header(path)
    # torch loads slowly, so the arguments are checked first
    from rfdetr_repro.model.checkpoints.pretrained import load_pretrained

    weights, note = args.model.weights()
    if note:
        log.info(note)
    detector, card, _ = load_pretrained(weights, args.size, labels_given(args.labels))
    arch = asked or card.arch
    arch = arch.with_input(*args.shape) if args.shape else arch
    if arch.rounding:
        log.info(arch.rounding)
    card = replace(card, resize=with_antialias(card.resize_rule, args.antialias))
    log.info(describe(card.resize_rule))
    subnet = detector.slice(arch)
    results = [
        _predict(subnet, card, path, to, args.threshold)
        for path, to in zip(pictures, drawn, strict=True)
    ]
    for result, to in zip(results, drawn, strict=True):
        result["drawn"] = to.relative_to(args.out).as_posix()
    write_atomic(args.out / "predictions.json", json.dumps(results, indent=1))


def find_pictures(given: Sequence[str]) -> list[Path]:
    """The named files and the images in the named folders, each once, in this order.

    Raises :class:`InputError` for a path that does not exist, for a web address, and for a folder
    without images.
    """
    found: list[Path] = []
    for item in given:
        if item.startswith(("http://", "https://")):
            raise InputError(
                "images on the web are not downloaded", item, "download the image first"
            )
        path = Path(item)
        if path.is_dir():
            inside = sorted(
                file
                for file in path.iterdir()
                if file.suffix.lower() in SUFFIXES and file.is_file()
            )
            if not inside:
                raise InputError(
                    "there are no images in the folder",
                    path,
                    f"give a folder that holds {', '.join(sorted(SUFFIXES))} files",
                )
            found += inside
        elif not path.exists():
            raise InputError("the image does not exist", path, "check the path")
        else:
            found.append(path)
    return list(dict.fromkeys(found))


def drawn_names(pictures: Sequence[Path]) -> list[Path]:
    """File name of each drawn image in the output folder: ``NAME.png``.

    Images with the same name keep their folders below the nearest common folder, and their suffix:
    ``cam1/0001.jpg.png``.
    """
    stems = Counter(path.stem.casefold() for path in pictures)
    names: list[Path] = []
    taken: set[str] = set()
    shared = [
        Path(os.path.abspath(path)).parent for path in pictures if stems[path.stem.casefold()] > 1
    ]
    common = Path(os.path.commonpath(shared)) if shared else Path()
    for path in pictures:
        name = Path(f"{path.stem}.png")
        if stems[path.stem.casefold()] > 1:
            name = Path(os.path.abspath(path)).parent.relative_to(common) / f"{path.name}.png"
        number = 2
        while str(name).casefold() in taken:
            name = name.with_name(f"{path.name}-{number}.png")
            number += 1
        taken.add(str(name).casefold())
        names.append(name)
    return names


def _predict(subnet: Any, card: Any, path: Path, drawn: Path, threshold: float) -> dict[str, Any]:
    """Draws an image and returns its JSON entry: objects with the original category ids and boxes
    in pixels.
    """
    from rfdetr_repro.data.decoding import decode_reduced, reduced
    from rfdetr_repro.evaluation.predict_images import detect
    from rfdetr_repro.plots.detections import best_of_each_box
    from rfdetr_repro.plots.figures import detections_figure

    image = decode_reduced(path)
    # the plain rule reads single pixels
    exact = card.resize_rule == ANTIALIASED or image.is_whole
    (found,) = detect(
        subnet, [image if exact else path], threshold, resize=card.resize_rule, small_masks=True
    )
    canvas = reduced(image.pixels, DRAWN_PIXELS)
    shown = best_of_each_box(found.on(canvas.shape[:2], image.size_hw))
    # The float32 value nearest to the threshold may be slightly below the threshold; such scores #
    # are shown.
    scores = () if shown.scores is None else shown.scores
    least = min([threshold, *map(float, scores)])
    detections_figure(
        [canvas], [shown], drawn, class_names=card.class_names, min_score=least, columns=1
    )
    masks = [] if found.masks is None else found.masks.rles()
    objects = [
        {
            "category_id": card.category_ids[int(label)],
            "class": card.class_names[int(label)],
            "score": round(float(score), 4),
            "box_xyxy": [round(float(value), 1) for value in box],
            **({} if found.masks is None else {"mask_rle": masks[row]}),
        }
        for row, (box, score, label) in enumerate(
            zip(found.boxes_xyxy, found.scores, found.labels, strict=True)
        )
    ]
    print(f"{path}: {len(objects)} objects -> {drawn}")
    height, width = image.size_hw
    return {
        "image": path.name,
        "path": str(path),
        "width": width,
        "height": height,
        "objects": objects,
    }


if __name__ == "__main__":
    raise SystemExit(run_main(main))
