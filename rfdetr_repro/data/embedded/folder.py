"""Writing a composed data set as a COCO folder: resumable by split, spread over processes, and
never over the files of somebody else.

Image i of a split depends only on the recipe, the split and i, so the number of processes does not
change a byte.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as mask_codec
from PIL import Image

from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import locked_folder, read_json, write_atomic

from .compose import Scene

CHUNK = 32  # images per work item
# in the folder while a split is being written: what lies there comes from this program
MARK = ".composing"
Progress = Callable[[Iterable[Any]], Iterable[Any]]  # e.g. a progress bar around the work items


@dataclass(frozen=True)
class Recipe:
    """What a composed data set is made of.

    ``compose(split, index)`` gives a scene of ``height`` x ``width`` pixels; worker processes
    receive a pickled copy of the function. ``config`` is stored in the annotations of each split,
    and a folder with another ``config`` is refused.
    """

    name: str
    height: int
    width: int
    counts: Mapping[str, int]  # split -> number of images
    descriptions: Mapping[str, str]  # split -> what its annotations say about the split
    categories: tuple[tuple[int, str], ...]  # (id, name)
    config: Mapping[str, Any]
    compose: Callable[[str, int], Scene]


def write_composed(
    folder: str | Path, recipe: Recipe, progress: Progress = iter, workers: int = 2
) -> Path:
    """Writes the splits of ``recipe`` that are not finished: annotations/instances_SPLIT.json and
    SPLIT/*.jpg.

    Raises :class:`InputError` for a folder that holds another data set.
    """
    folder = Path(folder)
    if missing_splits(folder, recipe):
        with locked_folder(folder, "composes this data set"):
            missing = missing_splits(folder, recipe)  # another run may have finished some
            write_atomic(folder / MARK, json.dumps(dict(recipe.config)))
            for split in missing:
                _write_split(folder, recipe, split, progress, workers)
    # also the mark of a run that was killed between its last split and its end
    (folder / MARK).unlink(missing_ok=True)
    return folder


def missing_splits(folder: str | Path, recipe: Recipe) -> list[str]:
    """Splits that are not finished. Nothing is written.

    Raises :class:`InputError` for a finished split of another recipe, for a folder of a split
    whose files no earlier run of this program can have written, and for what is no folder.
    """
    folder = Path(folder)
    if os.path.lexists(folder) and not folder.is_dir():
        raise InputError("this is not a folder", folder, "choose another folder")
    missing = []
    for split in recipe.counts:
        path = _annotations(folder, split)
        if not path.exists():
            missing.append(split)
        elif not _is_of(recipe, path):
            raise InputError(
                "another embedded data set is here",
                folder,
                "choose another folder, or remove this data set",
            )
    if len(missing) == len(recipe.counts) and not (folder / MARK).exists():
        _refuse_files_of_others(folder, recipe)
    return missing


def _annotations(folder: Path, split: str) -> Path:
    return folder / "annotations" / f"instances_{split}.json"


def _is_of(recipe: Recipe, path: Path) -> bool:
    """Whether annotations say that they were written from ``recipe``."""
    document = read_json(path)
    info = document.get("info") if isinstance(document, dict) else None
    return isinstance(info, dict) and info.get("config") == dict(recipe.config)


def _refuse_files_of_others(folder: Path, recipe: Recipe) -> None:
    for split in recipe.counts:
        place = folder / split
        if os.path.lexists(place) and not (place.is_dir() and not any(place.iterdir())):
            raise InputError(
                f"{split} exists already and was not composed by this program",
                folder,
                "choose another folder",
            )


def _write_split(
    folder: Path, recipe: Recipe, split: str, progress: Progress, workers: int
) -> None:
    """Images go to a temporary folder that is renamed when complete; the annotations are written
    last and mark the split as finished.
    """
    final = folder / split
    partial_folder = folder / f".{split}.partial"
    for leftover in (final, partial_folder):
        shutil.rmtree(leftover, ignore_errors=True)
    partial_folder.mkdir(parents=True)
    indices = range(recipe.counts[split])
    work = partial(_write_images, compose=recipe.compose, split=split, folder=str(partial_folder))
    try:
        per_image = _work_through(work, indices, progress, workers)
    except BaseException:  # a signal too
        shutil.rmtree(partial_folder, ignore_errors=True)
        (folder / MARK).unlink(missing_ok=True)
        raise
    document = {
        "info": {
            "name": recipe.name,
            "description": recipe.descriptions[split],
            "split": split,
            "config": dict(recipe.config),
        },
        "images": [
            {
                "id": index,
                "file_name": _file_name(index),
                "width": recipe.width,
                "height": recipe.height,
            }
            for index in indices
        ],
        "annotations": [
            {"id": number, **row}
            for number, row in enumerate((row for rows in per_image for row in rows), 1)
        ],
        "categories": [{"id": number, "name": name} for number, name in recipe.categories],
    }
    partial_folder.replace(final)
    write_atomic(_annotations(folder, split), json.dumps(document))


def _file_name(index: int) -> str:
    return f"{index:06d}.jpg"


def _write_images(
    indices: Sequence[int], compose: Callable[[str, int], Scene], split: str, folder: str
) -> list[list[dict[str, Any]]]:
    return [_write_image(compose(split, index), index, folder) for index in indices]


def _write_image(scene: Scene, index: int, folder: str) -> list[dict[str, Any]]:
    """Writes one JPEG (its quality is part of the scene) and returns its annotations without
    ids.
    """
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
