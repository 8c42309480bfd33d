"""The arguments of an export in INT8, and the steps from them to the file."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rfdetr_repro.data.source import add_data_arguments, source_of
from rfdetr_repro.export.artifact import Artifact
from rfdetr_repro.spec import logs
from rfdetr_repro.spec.arguments import folder_name, number, whole
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.protocol import AP_GATES, CALIBRATION_IMAGES

if TYPE_CHECKING:
    from .conversion import Score

SPLITS = ("train", "val")


def add_int8(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that belong to ``--precision int8``."""
    group = parser.add_argument_group("INT8")
    group.add_argument(
        "--ap-gate",
        type=number(0, 100),
        metavar="POINTS",
        help="largest loss of AP, in points, of the INT8 file against the float32 file on --split; "
        f"if no file keeps it, nothing is written and the exit code is 1 (default: "
        f"{AP_GATES['int8']})",
    )
    group.add_argument(
        "--calibration-images",
        type=whole(1, 100_000),
        metavar="NUMBER",
        help="number of training images from which the ranges of the activations are taken, drawn "
        f"by a fixed seed (default: {CALIBRATION_IMAGES})",
    )
    group.add_argument(
        "--split",
        type=folder_name,
        help="split of --data on which the loss of AP is measured (default: val)",
    )
    add_data_arguments(parser, "INT8 is calibrated on its train split", SPLITS)


def given(args: argparse.Namespace) -> list[str]:
    """The arguments of INT8 that are given, as typed."""
    names = ("ap_gate", "calibration_images", "split", "data", "annotations", "images")
    return [f"--{name.replace('_', '-')}" for name in names if getattr(args, name) is not None]


class Calibrated:
    """The data of an export in INT8, read and checked before anything is spent."""

    def __init__(self, args: argparse.Namespace) -> None:
        """Reads the splits that ``args`` name; raises :class:`InputError` for missing or unusable
        data.
        """
        from rfdetr_repro.data.coco import read_split

        source = source_of(args, SPLITS, needed=False)
        if source is None:
            raise InputError(
                "--precision int8 needs training images to calibrate on",
                hint="give --data DIR, the data set that the model was trained on",
            )
        self.points = AP_GATES["int8"] if args.ap_gate is None else args.ap_gate
        self.images = args.calibration_images or CALIBRATION_IMAGES
        self.train = read_split(source, "train")
        self.scored = read_split(source, args.split or "val", self.train.classes)
        if not len(self.scored.table.ids):
            raise InputError(
                f"the split {self.scored.split} has no annotations, so that no loss of AP can be "
                f"measured on it",
                source,
                "choose another --split",
            )

    def convert(self, wide: Artifact, out: Path, keep: Iterable[str], score: Score) -> Artifact:
        """Writes the INT8 form of the float32 artifact ``wide`` as ``out``; prints what became
        INT8.

        ``keep``: nodes or operators to keep in float32. ``score``: AP of a file on ``scored``, as
        :class:`~.conversion.Gate` takes it. Raises as :func:`~.conversion.int8_artifact`.
        """
        from .calibration import calibration_set
        from .conversion import Gate, Wishes, int8_artifact, summary

        data = f"{self.scored.name}/{self.scored.split}"
        made = int8_artifact(
            wide,
            out,
            calibration_set(self.train, self.images),
            Gate(score, data, self.points),
            Wishes(tuple(keep), progress=_bar),
        )
        print(summary(made))
        return made


def _bar(products: Iterable[Any]) -> Iterable[Any]:
    bar: Iterable[Any] = logs.progress_bar(products, "audit", "product")
    return bar
