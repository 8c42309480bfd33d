"""What a data set holds: the lines that every command prints before it spends anything, and their
JSON form.

Counts are of what is used after reading: rows that were left out are listed by kind.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.sizing import Scene

from .coco import CocoSplit
from .image_files import short

log = logging.getLogger(__name__)

MOST_CLASSES = 12  # named in the printed line
MANY_CLIPPED = 0.5  # of the boxes: then they may be [x1, y1, x2, y2]


@dataclass(frozen=True)
class Census:
    """Counts of one split; objects are training targets, so crowd regions are counted apart."""

    data: str
    split: str
    layout: str  # coco, yolo, labels, voc, cvat, or made (by a program)
    images: int
    objects: int
    # "name" of each class, in order of label; "name (id 7)" where two classes share a name
    objects_per_class: dict[str, int]
    crowds: int
    without_mask: int  # objects
    masks_unusable: int  # among these, objects whose segmentation gives no mask
    clipped: int  # boxes beyond the border by more than a pixel
    repeated: int  # objects with the box and class of an earlier object of the same image
    below_one_pixel: int  # boxes with a side shorter than a pixel
    images_without_objects: int
    most_objects: int  # of an image
    median_objects: float  # of an image, over all images
    left_out_empty: int  # boxes of zero width or height, left out
    boxes_from_masks: int
    areas_from_boxes: int
    sizes_from_files: int
    repeated_entries: int  # images listed more than once, used once
    pictures_listed_twice: int  # under two ids
    without_label_file: int  # YOLO
    within_100: bool  # every box lies within 0..100 on both axes of images that are far larger
    undivided: bool  # the data set names no splits
    exif_turned: int | None = None  # pictures turned by their EXIF; None: headers were not read
    # pictures with an EXIF rotation that is ignored, because the stated size is the stored size
    exif_ignored: int | None = None
    dropped: dict[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The counts as plain numbers, texts, and objects of numbers."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The lines to print: a summary, then one line for each remarkable fact."""
        per_image = f"at most {self.most_objects} in an image, median {self.median_objects:g}"
        what = (
            f"{many(self.images, 'image')}, {many(self.objects, 'object')} of "
            f"{many(len(self.objects_per_class), 'class')}"
        )
        parts = [f"{self.data} {self.split}: {what} ({per_image})"]
        if self.crowds:
            parts.append(many(self.crowds, "crowd region"))
        if self.images_without_objects:
            parts.append(f"{many(self.images_without_objects, 'image')} without objects")
        if self.exif_turned:
            parts.append(f"{many(self.exif_turned, 'picture')} turned by EXIF")
        if self.without_mask == self.objects:
            parts.append("no masks")
        else:
            parts.append(
                f"{many(self.without_mask, 'object')} without a usable mask"
                if self.without_mask
                else "all with masks"
            )
        return [", ".join(parts), f"  classes: {self._classes()}", *self.notes()]

    def notes(self) -> list[str]:
        """One line for each unusual fact; most of these facts cost AP silently in other
        programs.
        """
        # the other formats have no areas
        areas = self.areas_from_boxes if self.layout == "coco" else 0
        thin = f"{many(self.below_one_pixel, 'box')} with a side shorter than a pixel"
        clipped = (
            f"{many(self.clipped, 'box')} across the border by more than a pixel: clipped to the "
            f"image{self._order()}"
        )
        same = "(exact duplicates of others; AP cannot reach 100 with duplicates)"
        ignored = (
            f"{many(self.exif_ignored or 0, 'picture')} with an EXIF rotation that is ignored: "
        )
        ignored += "the stated size is the stored size"
        facts = [
            (self.exif_ignored, ignored),
            (self.undivided, f"the data set names no splits: all of it is read as {self.split}"),
            (self.repeated, f"{many(self.repeated, 'annotation')} written twice {same}"),
            (
                self.masks_unusable,
                f"{many(self.masks_unusable, 'segmentation')} without a usable shape: counted as "
                f"no mask",
            ),
            (self.clipped, clipped),
            (
                self.within_100,
                "all boxes lie within 0..100 although the images are larger: they may be in "
                "percent instead of pixels",
            ),
            (self.below_one_pixel, thin),
            (
                self.left_out_empty,
                f"{many(self.left_out_empty, 'box')} of zero width or height left out",
            ),
            (
                self.boxes_from_masks,
                f"{many(self.boxes_from_masks, 'box')} missing in the file: taken from the mask",
            ),
            (areas, f"{many(areas, 'area')} missing in the file: taken from the box"),
            (
                self.sizes_from_files,
                f"{many(self.sizes_from_files, 'image size')} missing in the file: taken from the "
                f"picture",
            ),
            (
                self.repeated_entries,
                f"{many(self.repeated_entries, 'image entry')} written twice: used once",
            ),
            (
                self.pictures_listed_twice,
                f"{many(self.pictures_listed_twice, 'picture')} listed again under another id",
            ),
            (
                self.without_label_file,
                f"{many(self.without_label_file, 'image')} without a label file: read as without "
                f"objects",
            ),
        ]
        notes = [f"  {text}" for count, text in facts if count]
        return notes + [f"  left out: {count} x {kind}" for kind, count in self.dropped.items()]

    def _order(self) -> str:
        doubt = self.clipped > MANY_CLIPPED * max(self.objects, 1)
        return "; if boxes are [x1, y1, x2, y2], write [x, y, width, height]" if doubt else ""

    def _classes(self) -> str:
        ranked = sorted(self.objects_per_class.items(), key=lambda item: -item[1])
        shown = [f"{short(name)} {count}" for name, count in ranked[:MOST_CLASSES]]
        if rest := ranked[MOST_CLASSES:]:
            shown.append(f"{len(rest)} more with {sum(count for _, count in rest)}")
        empty = sum(not count for _, count in ranked)
        return ", ".join(shown) + (f"; {empty} without objects" if empty else "")


def many(count: int, noun: str) -> str:
    """``1 box``, ``2 boxes``, ``2 images``: the count with the noun in its number."""
    if count == 1:
        return f"1 {noun}"
    if noun.endswith("y"):
        return f"{count} {noun[:-1]}ies"
    return f"{count} {noun}{'es' if noun.endswith(('x', 's')) else 's'}"


def take_census(split: CocoSplit, rotations: Mapping[str, int] | None = None) -> Census:
    """Counts a split.

    ``rotations``: the result of :meth:`CocoSplit.rotations`, if the headers have been read.
    """
    table = split.table
    origin = split.origin
    targets = ~table.crowd
    of_image = np.repeat(np.arange(len(split)), np.diff(table.first))
    per_image = np.bincount(of_image[targets], minlength=len(split))
    sides = table.boxes_xyxy[:, 2:] - table.boxes_xyxy[:, :2]
    rows = np.column_stack([of_image, table.labels, table.boxes_xywh])[targets]
    images = origin.images if origin else None
    return Census(
        data=split.name,
        split=split.split,
        layout=origin.found.kind if origin else "made",
        images=len(split),
        objects=int(targets.sum()),
        objects_per_class=dict(
            zip(_unique_names(split), split.objects_per_class().tolist(), strict=True)
        ),
        crowds=int(table.crowd.sum()),
        without_mask=len(split.mask_faults),
        masks_unusable=len(split.unusable_masks),
        clipped=table.clipped_boxes,
        repeated=len(rows) - len(np.unique(rows, axis=0)) if len(rows) else 0,
        below_one_pixel=int((sides.min(axis=1, initial=np.inf) < 1)[targets].sum()),
        images_without_objects=int((per_image == 0).sum()),
        most_objects=int(per_image.max()),
        median_objects=float(np.median(per_image)),
        left_out_empty=table.empty_boxes,
        boxes_from_masks=table.boxes_from_masks,
        areas_from_boxes=table.areas_from_boxes,
        sizes_from_files=images.sizes_from_files if images else 0,
        repeated_entries=images.repeated_entries if images else 0,
        pictures_listed_twice=images.same_file if images else 0,
        without_label_file=origin.content.without_label_file if origin else 0,
        within_100=_within_100(split),
        undivided=bool(origin and origin.found.undivided),
        exif_turned=None if rotations is None else rotations["turned"],
        exif_ignored=None if rotations is None else rotations["ignored"],
        dropped=split.dropped,
    )


def _within_100(split: CocoSplit) -> bool:
    """Whether boxes look like percentages: at least 10 boxes, none beyond 100, some near 100, on
    images of at least 200 px per side.
    """
    boxes = split.table.boxes_xyxy
    shortest = min(min(info.width, info.height) for info in split.images)
    return len(boxes) >= 10 and shortest >= 200 and 80 < float(boxes.max()) <= 100.001


def _unique_names(split: CocoSplit) -> list[str]:
    names = split.classes.names
    pairs = zip(split.classes.category_ids, names, strict=True)
    return [name if names.count(name) == 1 else f"{name} (id {number})" for number, name in pairs]


def check_usable(splits: Sequence[CocoSplit]) -> None:
    """Raises :class:`InputError` for a split without a usable object, and for two splits that are
    the same files.
    """
    seen: dict[Any, str] = {}
    for split in splits:
        where = split.origin.found.path if split.origin else split.name
        if not split.objects_per_class().sum():
            left = sum(split.dropped.values()) + split.empty_boxes
            what = f"no usable object in the {split.split} split of {many(len(split), 'image')}"
            what += f" ({left} left out)" if left else ""
            raise InputError(what, where, "label its images, or leave the split out")
        if (
            split.origin is not None
            and split.origin.found.kind != "yolo"
            and split.origin.found.listed is None
            and split.origin.found.subset is None
        ):
            if where in seen:
                what = (
                    f"the data set names no splits: {seen[where]} and {split.split} would be the "
                    f"same images"
                )
                raise InputError(
                    what,
                    where,
                    "divide the data set, or name both splits with --annotations and "
                    "--annotations-val",
                )
            seen[where] = split.split


def print_census(splits: Iterable[CocoSplit]) -> list[Census]:
    """Checks that the splits are usable, prints a census of each, and returns the censuses."""
    listed = list(splits)
    check_usable(listed)
    found = [take_census(split, split.rotations()) for split in listed]
    for census in found:
        log.info("\n".join(census.lines()))
    for line in shared_pictures(listed):
        log.info(line)
    return found


def mask_lines(splits: Iterable[CocoSplit]) -> list[str]:
    """A line for each split on which the mask AP of a model with masks cannot be measured."""
    facts = ((split.split, split.why_no_mask_ap()) for split in splits)
    return [f"mask AP on {name} is not measured: {why}" for name, why in facts if why]


def shared_pictures(splits: Sequence[CocoSplit]) -> list[str]:
    """A line for each pair of splits with common files, because a model would be measured on
    pictures that it was trained on.
    """
    files = [{os.path.normpath(info.path) for info in split.images} for split in splits]
    facts = []
    for later in range(1, len(splits)):
        for earlier in range(later):
            if common := len(files[earlier] & files[later]):
                names = splits[earlier].split, splits[later].split
                facts.append(
                    f"  {many(common, 'picture')} of {names[1]} in {names[0]} too: accuracy on "
                    f"{names[1]} is too high"
                )
    return facts


def census_json(found: Sequence[Census]) -> str:
    """The censuses as a JSON list, one object per split."""
    return json.dumps([census.as_json() for census in found], indent=1)


# share of all objects below which a class does not decide the resolution
RARE_CLASS = 0.01


def scene_of(split: CocoSplit) -> Scene:
    """What the split looks like: how many objects an image holds, and how large they are.

    Raises :class:`InputError` for a split without objects.
    """
    check_usable([split])
    table = split.table
    of_image = np.repeat(np.arange(len(split)), np.diff(table.first))[~table.crowd]
    labels = table.labels[~table.crowd]
    areas = np.array([info.width * info.height for info in split.images], dtype=float)
    boxes = table.boxes_xywh[~table.crowd, 2:].prod(axis=1)
    sides = np.sqrt(np.maximum(boxes, 0) / areas[of_image])
    common = np.bincount(labels, minlength=len(split.classes)) >= max(1.0, RARE_CLASS * len(labels))
    medians = {
        label: float(np.median(sides[labels == label])) for label in np.flatnonzero(common).tolist()
    }
    smallest = min(medians, key=lambda label: medians[label])
    per_image = objects_per_image(split)
    return Scene(
        images=len(split),
        median_objects=float(np.median(per_image)),
        many_objects=float(np.quantile(per_image, 0.9)),
        most_objects=int(per_image.max()),
        typical_side=float(np.median(sides)),
        smallest_class=_unique_names(split)[smallest],
        smallest_side=medians[smallest],
        image_side=float(np.median(np.sqrt(areas))),
    )


def objects_per_image(split: CocoSplit) -> np.ndarray:
    """Number of training targets of each image, int64 (images,)."""
    of_image = np.repeat(np.arange(len(split)), np.diff(split.table.first))
    return np.bincount(of_image[~split.table.crowd], minlength=len(split))
