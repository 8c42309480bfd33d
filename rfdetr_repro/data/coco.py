"""A split of a data set. Images are decoded and masks are rasterised on demand; everything else is
checked when the split is read.

    train = read_split(folder, "train")
    val = read_split(folder, "val", train.classes)

COCO is the internal format; :mod:`.formats.layouts` finds the other formats and converts them.

Category ids may have gaps; labels are contiguous (:class:`ClassMap`). Crowd annotations are kept
for evaluation and are not training targets. A picture is rotated by its EXIF orientation where the
JSON states the rotated size, and always with YOLO labels, which state no size (:mod:`.decoding`);
:meth:`CocoSplit.rotations` counts. A box that crosses the border is clipped for training (beyond 1
px the box is counted in ``clipped_boxes``), while evaluation uses the boxes as written.
"""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from rfdetr_repro.data.formats.layouts import Content, Found, is_there, load, locate
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import open_input

from .annotations import AnnotationTable, parse_annotations
from .coco_document import (
    ClassMap,
    ImageKey,
    parse_classes,
    parse_document,
    refuse_endless_numbers,
)
from .decoding import Header, decode, read_header
from .image_files import short
from .image_table import ImageInfo, ImageTable, parse_images
from .picture_cache import PictureCache
from .segmentation import NO_MASK, decode_mask, sample_mask
from .source import DataSource

log = logging.getLogger(__name__)

__all__ = [
    "ClassMap",
    "CocoSplit",
    "ImageInfo",
    "Sample",
    "decode_mask",
    "has_split",
    "read_held_out",
    "read_split",
    "read_splits",
]


@dataclass(frozen=True)
class Sample:
    """One image with its training targets (no crowd)."""

    image: np.ndarray  # uint8 (H, W, 3) RGB
    boxes_xyxy: np.ndarray  # float32 (n, 4) px
    labels: np.ndarray  # int64 (n,) contiguous
    masks: np.ndarray | MasksLater | None  # bool (n, H, W)
    image_id: ImageKey


@dataclass(frozen=True)
class MasksLater:
    """Masks of the training targets of one image, rasterised one at a time when sampled, because
    thousands of whole bitmaps of a photo take gigabytes.
    """

    split: CocoSplit
    info: ImageInfo
    rows: np.ndarray  # int64 (n,) of the split's table

    def __len__(self) -> int:
        return len(self.rows)

    def sampled(self, kept: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """bool (kept, rows, columns): the masks that bool ``kept`` (n,) selects, at these pixels
        (int64 indices).
        """
        chosen = self.rows[kept].tolist()
        result = np.zeros((len(chosen), len(rows), len(columns)), dtype=bool)
        for bitmap, row in zip(result, chosen, strict=True):
            bitmap[:] = self.split.mask_at(row, self.info, rows, columns)
        return result


@dataclass(frozen=True)
class Origin:
    """Where a split was read from, and the counts of its reader."""

    found: Found
    images: ImageTable
    content: Content


class CocoSplit:
    """A split of a data set, made by :func:`read_split`. Several threads may read it at once."""

    # whether labels refer to the picture as viewers show it, at any stated size, as YOLO's do
    always_turned = False

    def __init__(
        self,
        name: str,
        split: str,
        description: str,
        images: tuple[ImageInfo, ...],
        classes: ClassMap,
        table: AnnotationTable,
    ) -> None:
        """A split of images, classes and annotations that have been checked."""
        self.name = name
        self.split = split
        self.description = description
        self.images = images
        self.classes = classes
        self.clipped_boxes = table.clipped_boxes
        self.empty_boxes = table.empty_boxes
        self.origin: Origin | None = None  # where the split was read from; None: made by a program
        self._table = table
        self.annotation_digest: Any = None  # hashlib object over the annotation file
        self.decoded: PictureCache | None = None  # see cache_images

    def __len__(self) -> int:
        return len(self.images)

    def __getstate__(self) -> dict[str, Any]:
        """The state for another process: with the hash, without decoded images."""
        _ = self.sha256
        return {**self.__dict__, "annotation_digest": None, "decoded": None}

    @cached_property
    def sha256(self) -> str:
        """64 hex digits over the bytes of the annotation file and of every image file, in order.

        Reads all files once.
        """
        digest = self.annotation_digest.copy()
        for info in self.images:
            with open_input(info.path) as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
        return digest.hexdigest()

    def most_objects(self) -> int:
        """Number of training targets of the image with the most."""
        of_image = np.repeat(np.arange(len(self.images)), np.diff(self._table.first))
        return int(np.bincount(of_image[~self._table.crowd], minlength=1).max())

    def objects_per_class(self) -> np.ndarray:
        """Training targets of each class: int64 (classes,)."""
        return np.bincount(self._table.labels[~self._table.crowd], minlength=len(self.classes))

    @property
    def table(self) -> AnnotationTable:
        """All annotations as columns, sorted by image."""
        return self._table

    @cached_property
    def dropped(self) -> dict[str, int]:
        """Number of bad rows and images that were left out, by kind; empty without ``drop_bad``."""
        parts = (self.origin.images.dropped, self.origin.content.dropped) if self.origin else ()
        return {
            kind: count for part in (*parts, self._table.dropped) for kind, count in part.items()
        }

    @cached_property
    def mask_faults(self) -> dict[int, str]:
        """Row of the table -> reason why the row gives no mask, for all training targets without a
        mask.

        Parses all segmentations once.
        """
        table = self._table
        faults = {}
        of_image = np.repeat(np.arange(len(self.images)), np.diff(table.first))
        for row in np.flatnonzero(~table.crowd).tolist():
            info = self.images[of_image[row]]
            if fault := table.segmentations.fault(row, info.height, info.width):
                faults[row] = fault
        return faults

    @property
    def unusable_masks(self) -> dict[int, str]:
        """The entries of :attr:`mask_faults` whose segmentation exists but gives no mask."""
        return {row: fault for row, fault in self.mask_faults.items() if fault != NO_MASK}

    @cached_property
    def has_masks(self) -> bool:
        """Whether every training target has a usable segmentation."""
        return not self.mask_faults

    def why_no_masks(self) -> str:
        """One line on the targets without a mask: their number, and the first of them.

        Empty where all targets have a mask.
        """
        if not self.mask_faults:
            return ""
        row, fault = next(iter(self.mask_faults.items()))
        targets = int((~self._table.crowd).sum())
        if len(self.mask_faults) == targets and not self.unusable_masks:
            return "no masks in this data set"
        image = self.images[int(np.searchsorted(self._table.first, row, side="right")) - 1]
        which = (
            f"annotation id {short(self._table.ids[row])} of image id {short(image.id)}: {fault}"
        )
        return (
            f"{len(self.mask_faults)} of {targets} annotations have no usable mask (first: {which})"
        )

    def why_no_mask_ap(self) -> str:
        """One line on why mask AP cannot be measured; empty where mask AP can be measured.

        Mask AP needs a usable segmentation of every object and of every crowd region; without some
        of them, mask AP would be measured on other objects than box AP.
        """
        if why := self.why_no_masks():
            return why
        table = self._table
        for row in np.flatnonzero(table.crowd).tolist():
            image = self.images[int(np.searchsorted(table.first, row, side="right")) - 1]
            if fault := table.segmentations.fault(row, image.height, image.width):
                return (
                    f"crowd region id {short(table.ids[row])} of image id {short(image.id)} has no "
                    f"usable mask: {fault}"
                )
        return ""

    def cache_images(self, max_bytes: int = 1 << 30) -> bool:
        """Keeps the first decoded images that fit into ``max_bytes`` in memory from now on; returns
        whether all of them fit.
        """
        if self.decoded is None:
            self.decoded = PictureCache(max_bytes)
        self.decoded.max_bytes = max(self.decoded.max_bytes, max_bytes)
        return self.decoded_bytes <= max_bytes

    @property
    def decoded_bytes(self) -> int:
        """Bytes of all images of the split, decoded."""
        return 3 * sum(info.width * info.height for info in self.images)

    def load_image(self, index: int) -> np.ndarray:
        """uint8 (H, W, 3) RGB, read-only.

        Raises :class:`InputError` for a truncated file, and for an image of another size than
        stated.
        """
        if self.decoded is not None:
            return self.decoded.get(index, self._decode)
        return self._decode(index)

    def _decode(self, index: int) -> np.ndarray:
        info = self.images[index]
        image = decode(info.path, None if self.always_turned else (info.width, info.height))
        if image.shape[:2] != (info.height, info.width):
            what = (
                f"the image is {image.shape[1]} x {image.shape[0]} but the JSON says {info.width} "
                f"x {info.height}"
            )
            raise InputError(what, info.path, "write its real size")
        image.flags.writeable = False
        return image

    def rotations(self) -> dict[str, int]:
        """Numbers of pictures with an EXIF rotation: "turned" and "ignored". Reads all headers.

        Raises :class:`InputError` for a picture that does not open, or has another size than
        stated.
        """
        counts = {"turned": 0, "ignored": 0}
        for info in self.images:
            header: Header = read_header(info.path)
            if (info.width, info.height) not in (header.stored_wh, header.shown_wh):
                width, height = header.stored_wh
                what = (
                    f"the image is {width} x {height} but the JSON says {info.width} x "
                    f"{info.height}"
                )
                raise InputError(
                    what, info.path, "write its real size, or add --drop-bad to leave the image out"
                )
            if header.orientation != 1:
                turned = self.always_turned or header.is_turned((info.width, info.height))
                counts["turned" if turned else "ignored"] += 1
        return counts

    def rotations_line(self) -> str:
        """One sentence about :meth:`rotations`; empty where no picture has an EXIF rotation."""
        counts = self.rotations()
        total = len(self)
        parts = {
            "turned": "of {total} pictures {count} are turned by their EXIF",
            "ignored": "of {total} pictures {count} have an EXIF rotation that is ignored: "
            "their stated size is the stored size",
        }
        return "; ".join(
            parts[kind].format(total=total, count=count) for kind, count in counts.items() if count
        )

    def sample(self, index: int, masks: bool = False, masks_later: bool = False) -> Sample:
        """Image and targets. ``masks`` rasterises the masks, which every target must have.

        ``masks_later`` rasterises the masks when a batch is made from the sample.
        """
        table = self._table
        info = self.images[index]
        rows = np.arange(table.first[index], table.first[index + 1])
        rows = rows[~table.crowd[rows]]
        bitmaps: np.ndarray | MasksLater | None = None
        if masks and masks_later:
            bitmaps = MasksLater(self, info, rows)
        elif masks:
            bitmaps = np.zeros((len(rows), info.height, info.width), dtype=bool)
            for bitmap, row in zip(bitmaps, rows.tolist(), strict=True):
                bitmap[:] = self._mask(row, info)
        boxes = table.boxes_xyxy[rows].astype(np.float32)
        return Sample(self.load_image(index), boxes, table.labels[rows], bitmaps, info.id)

    def ground_truth(self, segmentations: bool = True) -> dict[str, Any]:
        """COCO JSON object for evaluation: original category ids, boxes as written, crowd included.

        ``segmentations``: whether to parse the segmentations; the entry is None without this, and
        for a segmentation that is not JSON.
        """
        table = self._table
        classes = self.classes
        category_ids = np.array(self.classes.category_ids, dtype=object)
        counts = np.diff(table.first).tolist()
        image_ids = [
            info.id for info, count in zip(self.images, counts, strict=True) for _ in range(count)
        ]
        columns = (
            category_ids[table.labels],
            table.boxes_xywh,
            table.area,
            table.crowd.astype(int),
        )
        keys = ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation")
        shapes = (
            table.segmentations.readable(row) if segmentations else None
            for row in range(len(table.ids))
        )
        rows = zip(
            table.ids.tolist(),
            image_ids,
            *(column.tolist() for column in columns),
            shapes,
            strict=True,
        )
        return {
            "info": {"description": self.description},
            "images": [
                {"id": i.id, "file_name": i.path.name, "width": i.width, "height": i.height}
                for i in self.images
            ],
            "categories": [
                {"id": i, "name": name}
                for i, name in zip(classes.category_ids, classes.names, strict=True)
            ],
            "annotations": [dict(zip(keys, row, strict=True)) for row in rows],
        }

    def mask_at(
        self, row: int, info: ImageInfo, rows: np.ndarray, columns: np.ndarray
    ) -> np.ndarray:
        """Mask of a row of the table at these pixels (int64 indices of rows and columns): bool
        (rows, columns).
        """
        return self._mask(
            row, info, lambda value: sample_mask(value, info.height, info.width, rows, columns)
        )

    def _mask(
        self, row: int, info: ImageInfo, raster: Callable[[Any], np.ndarray] | None = None
    ) -> np.ndarray:
        """bool (H, W), or the result of ``raster`` for the segmentation."""
        try:
            value = self._table.segmentations[row]
            return decode_mask(value, info.height, info.width) if raster is None else raster(value)
        except (ValueError, TypeError, KeyError, RuntimeError) as error:
            where = (
                f"annotation id {self._table.ids[row]} of image id {info.id} ({self.split} split)"
            )
            raise InputError(
                f"no usable segmentation: {error}",
                where,
                "correct the segmentation, or train without masks",
            ) from error


def has_split(data: str | os.PathLike[str], split: str) -> bool:
    """Whether the data set has this split, usable or broken, in any format that :func:`read_split`
    reads.
    """
    return is_there(DataSource.of(data), split)


def read_split(
    data: str | os.PathLike[str],
    split: str,
    classes: ClassMap | None = None,
    *,
    drop_bad: bool | None = None,
) -> CocoSplit:
    """Reads and checks one split ("train", "val" or "test") of a data set in any of the formats of
    :mod:`.formats.layouts`.

    ``data``: a folder, a YOLO data file, or a :class:`DataSource`. ``classes`` comes from the train
    split and is passed for the other splits; without ``classes`` the file's own categories are
    used. ``drop_bad`` (default: the source's own, else False) leaves out and counts rows and images
    that cannot be used. Without ``drop_bad`` these raise :class:`InputError`: a missing image, an
    unknown category, a duplicate id, an annotation of an unknown image, and a box that is negative,
    not finite or outside its image. A wrong folder, a file in none of the formats, and boxes that
    all lie within 0..1 always raise :class:`InputError`.
    """
    source = DataSource.of(data)
    drop = source.drop_bad if drop_bad is None else drop_bad
    found = locate(source, split)
    log.debug(f"split {split}: {found.path}, read as {found.kind}")
    content = load(found, split, drop)
    was_enabled = gc.isenabled()
    gc.disable()  # the collector would visit millions of new objects again and again
    try:
        document, spans = parse_document(content.text, found.path)
        classes = parse_classes(document, found.path, classes)
        refuse_endless_numbers(document, found.path)
        images = parse_images(
            document["images"], found.path, content.folders, drop_bad=drop, turned=content.turned
        )
        text = (content.text, spans)
        table = parse_annotations(
            document["annotations"], found.path, images, classes, text, drop_bad=drop
        )
    finally:
        if was_enabled:
            gc.enable()
    info = document["info"] if isinstance(document.get("info"), dict) else {}
    name = info.get("name") or source.name
    description = info.get("description") or ""
    result = CocoSplit(short(name), split, str(description), images.images, classes, table)
    result.origin = Origin(found, images, replace(content, text=b""))
    result.always_turned = found.kind in ("yolo", "labels")
    result.annotation_digest = hashlib.sha256(content.text)
    if dropped := result.dropped:
        # with rows left out, the data differ from the whole file
        result.annotation_digest.update(json.dumps(dropped, sort_keys=True).encode())
    return result


def read_splits(
    source: DataSource, held_out: Sequence[str] = ("val",), needed: Sequence[str] = ()
) -> dict[str, CocoSplit]:
    """The train split of a data set, which has to be there, and those of ``held_out`` that are.

    A split of ``needed`` that is not there is an :class:`InputError`, as is one that is broken.
    """
    train = read_split(source, "train")
    return {"train": train, **read_held_out(source, train.classes, held_out, needed)}


def read_held_out(
    source: DataSource, classes: ClassMap, names: Sequence[str], needed: Sequence[str] = ()
) -> dict[str, CocoSplit]:
    """Those splits of ``names`` that the data set has, or that are ``needed``, with the labels of
    the train split.
    """
    return {
        name: read_split(source, name, classes)
        for name in names
        if name in needed or has_split(source, name)
    }
