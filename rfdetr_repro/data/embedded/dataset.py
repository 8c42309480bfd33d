"""The embedded data set: COCO classes composed from licensed sprites over photos. Synthetic: its AP
is not COCO AP.

    python -m rfdetr_repro.data.embedded --out DIR [--train-images 8000] [--seed 0]

Image i of a split is a pure function of (seed, split, i): it depends neither on the machine nor on
the number of workers. Rules and numbers: ``embedded_pack/README.md``; object sizes: the "pico mix",
larger than the README's because images are 160 px.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as mask_codec
from PIL import Image

from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import locked_folder, read_json, write_atomic

from .compose import Scene, compose_scene, load_assets

CHUNK = 32  # images per work item
Progress = Callable[[Iterable[Any]], Iterable[Any]]  # e.g. a progress bar around the work items
NOTE = (
    "Synthetic images composed from rendered 3D models over photos; their AP is not COCO AP and "
    "must not be compared with it."
)
# split -> the part of the pack it may use
SPLITS = {"train": "train", "val": "train", "test": "val"}
DESCRIPTIONS = {
    "train": "scenes of the pack's train objects and backgrounds",
    "val": "new scenes of the same train objects and backgrounds (another random stream); "
    "the search chooses on it",
    "test": "objects, clutter and backgrounds that never occur in training",
}


@dataclass(frozen=True)
class EmbeddedConfig:
    """Sizes of the three splits; ``image_side`` in pixels."""

    image_side: int = 160
    train_images: int = 8000
    val_images: int = 150
    test_images: int = 150
    seed: int = 0

    def count(self, split: str) -> int:
        """Number of images of ``split``."""
        return int(getattr(self, f"{split}_images"))


def compose(config: EmbeddedConfig, split: str, index: int) -> Scene:
    """Scene ``index`` of ``split``: image uint8 (side, side, 3), and masks and categories of the
    visible objects.
    """
    rng = np.random.default_rng((config.seed, list(SPLITS).index(split), index))
    return compose_scene(load_assets(SPLITS[split]), config.image_side, rng)


def _file_name(index: int) -> str:
    return f"{index:06d}.jpg"


def _write_images(
    indices: Sequence[int], config: EmbeddedConfig, split: str, folder: str
) -> list[list[dict[str, Any]]]:
    return [_write_image(index, config, split, folder) for index in indices]


def _write_image(
    index: int, config: EmbeddedConfig, split: str, folder: str
) -> list[dict[str, Any]]:
    """Writes one JPEG (its quality is part of the scene) and returns its annotations without
    ids.
    """
    scene = compose(config, split, index)
    content = io.BytesIO()
    Image.fromarray(scene.image).save(content, "JPEG", quality=scene.jpeg_quality)
    Path(folder, _file_name(index)).write_bytes(content.getvalue())
    annotations = []
    for mask, category in zip(scene.masks, scene.category_ids, strict=True):
        rle = mask_codec.encode(np.asfortranarray(mask.astype(np.uint8)))
        ys, xs = np.nonzero(mask)
        box = [int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1]
        text = rle["counts"].decode() if isinstance(rle["counts"], bytes) else rle["counts"]
        segmentation = {"size": [int(side) for side in rle["size"]], "counts": text}
        truth = {"bbox": box, "area": int(mask.sum()), "segmentation": segmentation}
        annotations.append({"image_id": index, "category_id": category, "iscrowd": 0, **truth})
    return annotations


def write_embedded(
    folder: str | Path,
    config: EmbeddedConfig | None = None,
    progress: Progress = iter,
    workers: int = 2,
) -> Path:
    """Writes a COCO folder (annotations/instances_SPLIT.json, SPLIT/*.jpg).

    Finished splits of the same config are kept. Raises :class:`InputError` for a folder that holds
    another embedded data set.
    """
    folder, config = Path(folder), config or EmbeddedConfig()
    if _missing(folder, config):
        with locked_folder(folder, "composes this data set"):
            for split in _missing(folder, config):
                _write_split(folder, config, split, progress, workers)
    return folder


def _missing(folder: Path, config: EmbeddedConfig) -> list[str]:
    """Splits that are not finished.

    Raises :class:`InputError` for finished splits of another config.
    """
    missing = []
    for split in SPLITS:
        path = folder / "annotations" / f"instances_{split}.json"
        if not path.exists():
            missing.append(split)
        elif read_json(path).get("info", {}).get("config") != asdict(config):
            raise InputError(
                "another embedded data set is here",
                folder,
                "choose another folder, or remove this data set",
            )
    return missing


def _write_split(
    folder: Path, config: EmbeddedConfig, split: str, progress: Progress, workers: int
) -> None:
    """Images go to a temporary folder that is renamed when complete; the annotations are written
    last and mark the split as finished.
    """
    final = folder / split
    partial_folder = folder / f".{split}.partial"
    for leftover in (final, partial_folder):
        shutil.rmtree(leftover, ignore_errors=True)
    partial_folder.mkdir(parents=True)
    indices = range(config.count(split))
    work = partial(_write_images, config=config, split=split, folder=str(partial_folder))
    try:
        per_image = _work_through(work, indices, progress, workers)
    except BaseException:  # a signal too
        shutil.rmtree(partial_folder, ignore_errors=True)
        raise
    annotations = [
        {"id": number, **row}
        for number, row in enumerate((row for rows in per_image for row in rows), 1)
    ]
    document = {
        "info": {
            "name": "embedded",
            "description": f"Embedded {split}: {DESCRIPTIONS[split]}. {NOTE}",
            "split": split,
            "config": asdict(config),
        },
        "images": [
            {
                "id": i,
                "file_name": _file_name(i),
                "width": config.image_side,
                "height": config.image_side,
            }
            for i in indices
        ],
        "annotations": annotations,
        "categories": [
            {"id": number, "name": name} for number, name in load_assets(SPLITS[split]).categories
        ],
    }
    partial_folder.replace(final)
    write_atomic(folder / "annotations" / f"instances_{split}.json", json.dumps(document))


def _work_through(
    work: Callable[[Sequence[int]], list[Any]], indices: range, progress: Progress, workers: int
) -> list[Any]:
    """``work`` on all ``indices``, in chunks and in order; in separate processes where that is
    faster.
    """
    chunks = [indices[start : start + CHUNK] for start in range(0, len(indices), CHUNK)]
    if workers < 2 or len(chunks) <= 4:
        return [rows for chunk in progress(chunks) for rows in work(chunk)]
    pool = ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_live_with_parent
    )
    try:
        waiting = [pool.submit(work, chunk) for chunk in chunks]
        return [rows for future in progress(waiting) for rows in future.result()]
    finally:
        # after an error or a signal, chunks that no worker has begun are dropped
        pool.shutdown(cancel_futures=True)


def _live_with_parent() -> None:
    """In a worker: leaves signals that end a whole job to the parent, and ends the worker when the
    parent was killed.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends the worker with its parent. The worker would otherwise wait for work for ever, or write
    into a folder that the next run makes again.
    """
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
