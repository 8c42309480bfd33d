"""Where a command's data are: a folder in a known layout, or annotation files named one by one; and
``--drop-bad``.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, replace
from pathlib import Path

from rfdetr_repro.spec.arguments import any_path
from rfdetr_repro.spec.errors import InputError

# Stems of files that every data set has: the name of the folder tells more.
_GENERAL_STEMS = {
    "data",
    "dataset",
    "labels",
    "result",
    "annotations",
    "_annotations.coco",
    "instances",
    "instances_default",
}
SPLITS = ("train", "val", "test")
LAYOUTS = (
    "a folder in COCO, Roboflow, YOLO, Pascal VOC, CVAT, Label Studio, Datumaro or FiftyOne form, "
    "a YOLO data.yaml, or the JSON file of a COCO data set (see docs/data.md)"
)


@dataclass(frozen=True)
class ExplicitSplit:
    """A split named explicitly: its annotation file, and the folder of its images (None: the folder
    of the file).
    """

    annotations: Path
    images: Path | None = None


@dataclass(frozen=True)
class DataSource(os.PathLike[str]):
    """What :func:`.coco.read_split` reads. ``root``: a folder, or a ``data.yaml``; ``explicit``:
    explicitly named splits.

    ``drop_bad`` leaves out and counts rows that cannot be used; without ``drop_bad`` such rows are
    refused. As a path the source is its ``root``.
    """

    root: Path
    explicit: tuple[tuple[str, ExplicitSplit], ...] = ()
    drop_bad: bool = False

    @classmethod
    def of(cls, data: str | os.PathLike[str]) -> DataSource:
        """``data`` itself if it is a source, or the source at a plain path."""
        return data if isinstance(data, DataSource) else cls(Path(data))

    def split(self, name: str) -> ExplicitSplit | None:
        """The files named explicitly for this split; None if there are none."""
        return dict(self.explicit).get(name)

    @property
    def name(self) -> str:
        """Name of the folder. For an annotation file: its name without suffix, or the name of its
        folder where all such files have the same name.
        """
        root = self.root.resolve()
        if root.is_file():
            return root.parent.name if root.stem in _GENERAL_STEMS else root.stem
        return root.name

    def resolve(self) -> DataSource:
        """The same source with absolute paths, for other processes."""
        named = (
            (name, ExplicitSplit(one.annotations.resolve(), one.images and one.images.resolve()))
            for name, one in self.explicit
        )
        return DataSource(self.root.resolve(), tuple(named), self.drop_bad)

    def dropping(self, also: bool) -> DataSource:
        """The same source, leaving out bad rows if it did so before or if ``also``."""
        return replace(self, drop_bad=self.drop_bad or also)

    def exists(self) -> bool:
        """Whether the root exists."""
        return self.root.exists()

    def __fspath__(self) -> str:
        return str(self.root)

    def __str__(self) -> str:
        return str(self.root)


def add_data_arguments(
    parser: argparse._ActionsContainer, use: str, splits: tuple[str, ...] = SPLITS
) -> None:
    """Adds ``--data`` and the arguments that name files one by one; ``use`` ends the help of
    ``--data``.

    ``splits``: the splits that the command can read; ``--annotations`` names the first.
    """
    if isinstance(parser, argparse.ArgumentParser):
        parser = parser.add_argument_group("data")
    add = parser.add_argument
    add("--data", type=any_path, metavar="DATA", help=f"{LAYOUTS}; {use}")
    add(
        "--annotations",
        type=any_path,
        metavar="FILE",
        help=f"annotation file of the {splits[0]} split, in place of --data",
    )
    add(
        "--images",
        type=any_path,
        metavar="DIR",
        help="folder of the images that --annotations, or the JSON file in --data, names (default: "
        "the folder of the annotation file, or images next to the file)",
    )
    for name in splits[1:]:
        add(
            f"--annotations-{name}",
            type=any_path,
            metavar="FILE",
            help=f"annotation file of the {name} split, in addition to --annotations",
        )
        add(
            f"--images-{name}",
            type=any_path,
            metavar="DIR",
            help=f"folder of the images that --annotations-{name} names (default: the folder of "
            "--images)",
        )
    add(
        "--drop-bad",
        action="store_true",
        help="leave out unusable annotations and images, and print their number by kind (default: "
        "refuse the data)",
    )


def source_of(
    args: argparse.Namespace,
    splits: tuple[str, ...] = SPLITS,
    needed: bool = True,
) -> DataSource | None:
    """The data that the arguments name; None where they name none and none are ``needed``.

    ``splits``: as given to :func:`add_data_arguments`. Raises :class:`InputError` for arguments
    that contradict each other. An annotation file in ``--data`` counts as ``--annotations`` where
    other arguments name its images or a further split.
    """
    _data_as_annotations(args, splits)
    later = [name for name in splits[1:] if getattr(args, f"annotations_{name}", None) is not None]
    stray = [
        name
        for name in splits[1:]
        if getattr(args, f"images_{name}", None) is not None and name not in later
    ]
    if stray or (args.images is not None and args.annotations is None):
        raise InputError(
            f"--images{f'-{stray[0]}' if stray else ''} without its annotation file",
            hint="name both",
        )
    if args.annotations is None:
        if later:
            raise InputError(
                f"--annotations-{later[0]} without --annotations",
                hint=f"name the {splits[0]} split too",
            )
        if args.data is None and needed:
            raise InputError(
                "no data given",
                hint="give --data FOLDER, or --annotations FILE with --images FOLDER",
            )
        return None if args.data is None else DataSource(args.data, (), args.drop_bad)
    if args.data is not None:
        raise InputError("--data and --annotations are both given", hint="leave one of them out")
    named = [(splits[0], ExplicitSplit(args.annotations, args.images))]
    for name in later:
        images = getattr(args, f"images_{name}")
        named.append(
            (
                name,
                ExplicitSplit(
                    getattr(args, f"annotations_{name}"), args.images if images is None else images
                ),
            )
        )
    return DataSource(args.annotations, tuple(named), args.drop_bad)


def _data_as_annotations(args: argparse.Namespace, splits: tuple[str, ...]) -> None:
    """Moves an annotation file from ``--data`` to ``--annotations`` where arguments refer to it."""
    data = args.data
    if args.annotations is not None or data is None or data.suffix.lower() in (".yaml", ".yml"):
        return
    further = [f"annotations_{name}" for name in splits[1:]] + ["images"]
    if data.is_file() and any(getattr(args, name, None) is not None for name in further):
        args.annotations, args.data = data, None
