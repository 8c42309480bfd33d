"""The check of everything that a campaign names, before its folder is made and time is spent."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rfdetr_repro.data.source import DataSource
from rfdetr_repro.spec.campaign import Campaign
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.presets import PICO_WEIGHTS

from .training import check_masks, pretraining_splits

if TYPE_CHECKING:
    from rfdetr_repro.data.coco import CocoSplit


@dataclass(frozen=True)
class ReadData:
    """The splits of ``source``, which were read in ``seconds``."""

    source: DataSource
    splits: dict[str, CocoSplit]
    seconds: float


def read_data(chosen: Campaign, folder: str | os.PathLike[str]) -> ReadData:
    """Reads the splits of the data in ``folder``. Raises :class:`InputError` where they cannot be
    used.
    """
    from rfdetr_repro.data.coco import read_splits

    started = time.perf_counter()
    source = DataSource.of(folder).dropping(chosen.drop_bad)
    splits = read_splits(source, ("val", "test"), needed=("val",))
    return ReadData(source, splits, time.perf_counter() - started)


def check_inputs(chosen: Campaign) -> None:
    """Raises :class:`InputError` if a file that the campaign names is missing, if its weights
    cannot be used, or if its backend is not available.
    """
    before = None if chosen.pretraining is None else chosen.pretraining.data
    for what, path in (
        ("data", chosen.data),
        ("weights", chosen.weights),
        ("data of the pretraining", before),
    ):
        if path is not None and not DataSource.of(path).exists():
            raise InputError(f"the campaign's {what} are missing", path, "check the path")
    from rfdetr_repro.runtime.backends import check_backend

    check_backend(chosen.backend)
    _check_weights(chosen)


def check_data(chosen: Campaign, folder: Path) -> ReadData | None:
    """Reads the data that the campaign names; None where the data will be composed. The data of its
    pretraining are read too, unless a run in ``folder`` has begun with them.

    Raises :class:`InputError` where they cannot be used.
    """
    if chosen.pretraining is not None and not (folder / "pretraining").exists():
        pretraining_splits(chosen)
    if chosen.data is None:
        return None
    read = read_data(chosen, chosen.data)
    check_masks(chosen, read.splits)
    return read


def _check_weights(chosen: Campaign) -> None:
    """Reads the campaign's own weights, as its training will. What masks need is left to the
    training, because the data may have none.
    """
    if chosen.weights is None or chosen.weights == PICO_WEIGHTS:
        return
    from rfdetr_repro.data.coco_document import ClassMap
    from rfdetr_repro.train.prepare import start_from

    row = replace(chosen.preset, model=replace(chosen.preset.model, masks=False))
    start_from(chosen.weights, row, ClassMap((1,), ("object",)))
