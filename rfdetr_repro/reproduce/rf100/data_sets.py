"""The data sets of a run over many: they are found in folders, and all are read and checked before
anything is spent.

RF100-VL and RF20-VL are folders of folders: each of their folders is one data set in Roboflow's
COCO form, with train, valid and test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rfdetr_repro.data.census import check_usable, many, scene_of
from rfdetr_repro.data.coco import has_split, read_splits
from rfdetr_repro.data.source import DataSource
from rfdetr_repro.records.record import TrainFacts
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.ranges import plain_name
from rfdetr_repro.spec.sizing import Sizing, size_for

if TYPE_CHECKING:
    from rfdetr_repro.data.coco import CocoSplit

HELD_OUT = ("val", "test")


@dataclass(frozen=True)
class DataSet:
    """A data set that was read and can be used.

    ``sha256``: split -> digest of its annotations; ``sizing``: what its train split asks for.
    """

    name: str  # of the data in Records
    source: DataSource
    images: dict[str, int]
    sha256: dict[str, str]
    facts: TrainFacts
    sizing: Sizing

    @property
    def line(self) -> str:
        """What it holds, in a line."""
        count = "/".join(str(number) for number in self.images.values())
        return (
            f"{self.name}: {count} images, {many(self.facts.classes, 'class')}, "
            f"{self.facts.objects_per_image:.1f} objects per image, mean area of an object "
            f"{self.facts.mean_object_area:.2%} of its image"
        )


def find_data_sets(paths: Sequence[Path], drop_bad: bool = False) -> list[DataSource]:
    """The data sets at ``paths``: each a data set, or a folder of folders that are data sets.

    Hidden folders are left out. Raises :class:`InputError` for a path that does not exist, a folder
    with neither, and two data sets whose folders have the same name.
    """
    found: list[DataSource] = []
    for path in paths:
        whole = DataSource(path, (), drop_bad)
        if not path.exists():
            raise InputError("no such data set", path, "check the path")
        if has_split(whole, "train"):
            found.append(whole)
            continue
        inside = (
            sorted(one for one in path.iterdir() if one.is_dir() and not one.name.startswith("."))
            if path.is_dir()
            else []
        )
        if not inside:
            raise InputError(
                "neither a data set with a train split nor a folder of data sets",
                path,
                "give a folder such as rf100-vl/, whose folders hold train, valid and test",
            )
        found += [DataSource(one, (), drop_bad) for one in inside]
    names: dict[str, Path] = {}
    for source in found:
        plain_name(source.name, "the name of a data set's folder", source.root)
        if (before := names.setdefault(source.name, source.root)) is not source.root:
            raise InputError(
                f"two data sets are called {source.name}",
                f"{before} and {source.root}",
                "rename one of the folders",
            )
    return found


def check_data_set(source: DataSource, patch: int) -> DataSet:
    """Reads annotations and the headers of all pictures. ``patch``: px of the base architecture.

    Raises :class:`InputError` for data that cannot be used, and for a missing split.
    """
    splits = read_splits(source, HELD_OUT, needed=HELD_OUT)
    check_usable(list(splits.values()))
    for split in splits.values():
        split.rotations()  # reads the header of every picture
    train = splits["train"]
    return DataSet(
        train.name,
        source.resolve(),
        {name: len(split) for name, split in splits.items()},
        {name: split.sha256 for name, split in splits.items()},
        facts_of(train),
        size_for(scene_of(train), patch),
    )


def facts_of(split: CocoSplit) -> TrainFacts:
    """The facts of a split that has objects."""
    table = split.table
    targets = ~table.crowd
    of_image = np.repeat(np.arange(len(split)), np.diff(table.first))[targets]
    areas = np.array([info.width * info.height for info in split.images], dtype=float)
    boxes = table.boxes_xywh[targets, 2:].prod(axis=1)
    return TrainFacts(
        len(split),
        int(targets.sum()),
        int((split.objects_per_class() > 0).sum()),
        float((boxes / areas[of_image]).mean()),
    )
