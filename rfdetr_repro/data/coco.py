"""A split of a COCO-format data set: images decoded and masks rasterised on demand, everything else checked when it is read.

    train = read_split(folder, "train")
    val = read_split(folder, "val", train.classes)

Category ids may have holes; labels are contiguous (:class:`ClassMap`). Crowd annotations are kept for evaluation and are no
training targets. EXIF rotation is ignored, as COCO does. A box that crosses the border is clipped for training (beyond 1 px it is
counted in ``clipped_boxes``), while evaluation sees the boxes as they are written.
"""

from __future__ import annotations

import gc
import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import InputError
from ..files import open_input
from .annotations import (
    AnnotationTable,
    ClassMap,
    ImageInfo,
    SplitFiles,
    find_split,
    has_coco_split,
    parse_annotations,
    parse_classes,
    parse_document,
    parse_images,
)
from .segmentation import decode_mask
from .yolo import find_yaml, names_split, yolo_as_coco

__all__ = ["ClassMap", "CocoSplit", "ImageInfo", "Sample", "decode_image", "decode_mask", "has_split", "read_split"]


@dataclass(frozen=True)
class Sample:
    """One image with its training targets (no crowd)."""

    image: np.ndarray  # uint8 (H, W, 3) RGB
    boxes_xyxy: np.ndarray  # float32 (n, 4) px
    labels: np.ndarray  # int64 (n,) contiguous
    masks: np.ndarray | None  # bool (n, H, W)
    image_id: int


class CocoSplit:
    """Made by :func:`read_split`. Safe to read from several threads."""

    def __init__(
        self,
        name: str,
        split: str,
        description: str,
        images: tuple[ImageInfo, ...],
        classes: ClassMap,
        table: AnnotationTable,
    ) -> None:
        self.name = name
        self.split = split
        self.description = description
        self.images = images
        self.classes = classes
        self.clipped_boxes = table.clipped_boxes
        self.dropped_boxes = table.dropped_boxes
        self._table = table
        self._annotation_digest: Any = None  # hashlib object over the annotation file
        self._decoded: dict[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getstate__(self) -> dict[str, Any]:
        """For another process: with the hash, without decoded images."""
        _ = self.sha256
        return {**self.__dict__, "_annotation_digest": None, "_decoded": None}

    @cached_property
    def sha256(self) -> str:
        """64 hex digits over the bytes of the annotation file and of every image file, in order. Reads all files once."""
        digest = self._annotation_digest.copy()
        for info in self.images:
            with open_input(info.path) as stream:
                digest.update(stream.read())
        return digest.hexdigest()

    def most_objects(self) -> int:
        """Training targets of the fullest image."""
        of_image = np.repeat(np.arange(len(self.images)), np.diff(self._table.first))
        return int(np.bincount(of_image[~self._table.crowd], minlength=1).max())

    @cached_property
    def has_masks(self) -> bool:
        """Whether every training target has a segmentation."""
        return bool(self._table.segmentations.filled()[~self._table.crowd].all())

    def cache_images(self, max_bytes: int = 1 << 30) -> bool:
        """Keeps decoded images in memory from now on if all of them fit into ``max_bytes``; returns whether it does."""
        if fits := 3 * sum(info.width * info.height for info in self.images) <= max_bytes:
            self._decoded = self._decoded or {}
        return fits

    def load_image(self, index: int) -> np.ndarray:
        """uint8 (H, W, 3) RGB, read-only. A truncated file, or one of another size than stated, is an :class:`InputError`."""
        if self._decoded is not None and index in self._decoded:
            return self._decoded[index]
        info = self.images[index]
        image = decode_image(info.path)
        if image.shape[:2] != (info.height, info.width):
            what = f"the image is {image.shape[1]} x {image.shape[0]} but the JSON says {info.width} x {info.height}"
            raise InputError(what, info.path, "write its real size")
        if self._decoded is not None:
            self._decoded[index] = image
        return image

    def sample(self, index: int, masks: bool = False) -> Sample:
        """Image and targets; masks are rasterised only if asked for, and then every target must have one."""
        table, info = self._table, self.images[index]
        rows = np.arange(table.first[index], table.first[index + 1])
        rows = rows[~table.crowd[rows]]
        bitmaps = None
        if masks:
            bitmaps = np.zeros((len(rows), info.height, info.width), dtype=bool)
            for bitmap, row in zip(bitmaps, rows.tolist(), strict=True):
                bitmap[:] = self._mask(row, info)
        boxes = table.boxes_xyxy[rows].astype(np.float32)
        return Sample(self.load_image(index), boxes, table.labels[rows], bitmaps, info.id)

    def ground_truth(self) -> dict[str, Any]:
        """COCO JSON object for evaluation: original category ids, boxes as written, crowd included."""
        table, classes, category_ids = self._table, self.classes, np.array(self.classes.category_ids)
        image_ids = np.repeat([info.id for info in self.images], np.diff(table.first))
        columns = (table.ids, image_ids, category_ids[table.labels], table.boxes_xywh, table.area, table.crowd.astype(int))
        keys = ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation")
        segmentations = (table.segmentations[row] for row in range(len(table.ids)))
        rows = zip(*(column.tolist() for column in columns), segmentations, strict=True)
        return {
            "info": {"description": self.description},
            "images": [{"id": i.id, "file_name": i.path.name, "width": i.width, "height": i.height} for i in self.images],
            "categories": [{"id": i, "name": name} for i, name in zip(classes.category_ids, classes.names, strict=True)],
            "annotations": [dict(zip(keys, row, strict=True)) for row in rows],
        }

    def _mask(self, row: int, info: ImageInfo) -> np.ndarray:
        try:
            return decode_mask(self._table.segmentations[row], info.height, info.width)
        except (ValueError, TypeError, KeyError, RuntimeError) as error:
            where = f"annotation id {self._table.ids[row]} of image id {info.id} ({self.split} split)"
            raise InputError(f"no usable segmentation: {error}", where, "mend it, or train without masks") from error


def decode_image(path: str | Path) -> np.ndarray:
    """Decodes an image file to uint8 (H, W, 3) RGB; a missing, truncated or foreign file is an :class:`InputError`."""
    with open_input(path) as stream:
        try:
            with Image.open(stream) as picture:
                return np.asarray(picture.convert("RGB"))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            reason = "the format is unknown" if isinstance(error, Image.UnidentifiedImageError) else str(error)
            raise InputError(f"cannot decode the image: {reason}", path, "replace the file") from error


def has_split(data_dir: str | Path, split: str) -> bool:
    """Whether the folder has this split, sound or broken, in any of the forms that :func:`read_split` reads."""
    described = find_yaml(Path(data_dir))
    return has_coco_split(data_dir, split) or (described is not None and names_split(described, split))


def _annotations(root: Path, split: str) -> tuple[SplitFiles, bytes]:
    """Where a split's annotations and images are, and its COCO JSON, made from YOLO's files where these are all there is."""
    described = None if has_coco_split(root, split) else find_yaml(root)
    if described is not None:
        content, images = yolo_as_coco(described, split)
        return SplitFiles(described, images), content
    files = find_split(root, split)
    with open_input(files.annotations) as stream:
        return files, stream.read()


def read_split(data_dir: str | Path, split: str, classes: ClassMap | None = None) -> CocoSplit:
    """Reads and checks one split ("train", "val" or "test") of a folder in COCO's, Roboflow's or YOLO's form.

    ``classes`` comes from the train split and is passed for the others; without it the file's own categories are used. Raises
    :class:`InputError` for a wrong folder, a file that is not COCO, a missing image, an unknown category, a duplicate id, an
    annotation of an unknown image, and a box that is empty, not finite or wholly outside its image.
    """
    files, content = _annotations(Path(data_dir), split)
    was_enabled = gc.isenabled()
    gc.disable()  # it would walk millions of new objects again and again
    try:
        document, spans = parse_document(content, files.annotations)
        classes = parse_classes(document, files.annotations, classes)
        images = parse_images(document, files.annotations, files.images)
        table = parse_annotations(document["annotations"], files.annotations, images, classes, (content, spans))
    finally:
        if was_enabled:
            gc.enable()
    info = document["info"] if isinstance(document.get("info"), dict) else {}
    name, description = info.get("name") or Path(data_dir).resolve().name, info.get("description", "")
    result = CocoSplit(str(name), split, str(description), images, classes, table)
    result._annotation_digest = hashlib.sha256(content)
    return result
