"""Upstream's classes by name: ``RFDETRNano(pretrain_weights=...)`` is ``RFDETR("nano",
weights=...)``.
"""

from __future__ import annotations

import difflib
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from rfdetr_repro.model.checkpoints.pretrained import with_classes
from rfdetr_repro.model.checkpoints.upstream import UPSTREAM_CLASSES
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.labels import Labels

from .rfdetr import RFDETR

log = logging.getLogger(__name__)

_TAKEN = ("pretrain_weights", "device", "resolution", "num_classes", "labels", "arch")


def upstream_class(name: str) -> type[RFDETR]:
    """The class that upstream calls ``name``. Raises :class:`AttributeError` for another name, like
    a module.
    """
    if name not in UPSTREAM_CLASSES:
        near = difflib.get_close_matches(name, UPSTREAM_CLASSES, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise AttributeError(f"module 'rfdetr_repro' has no attribute {name!r}{hint}")
    return type(
        name,
        (_Sized,),
        {"size": UPSTREAM_CLASSES[name], "__module__": "rfdetr_repro", "__doc__": _Sized.__doc__},
    )


class _Sized(RFDETR):
    """A detector of one size. ``pretrain_weights``: the file of its weights; nothing is downloaded,
    and without a file the weights are random.

    ``resolution``: side of the input in px instead of the size's own; ``num_classes``: number of
    logits; if the file has another number, rows of the class heads are repeated. Upstream's other
    settings belong to the file and are refused.
    """

    size = "nano"

    def __init__(self, pretrain_weights: str | Path | None = None, **settings: Any) -> None:
        resolution = settings.pop("resolution", None)
        classes = settings.pop("num_classes", None)
        if unknown := sorted(set(settings) - set(_TAKEN)):
            near = difflib.get_close_matches(unknown[0], _TAKEN, 1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise InputError(
                f"unknown setting {unknown[0]}", self.size, f"{hint}known: {', '.join(_TAKEN)}"
            )
        super().__init__(self.size, weights=pretrain_weights, **settings)
        if resolution is not None:
            self.card = replace(self.card, arch=self._arch((resolution, resolution)))
            self.detector.arch = self.card.arch
        if classes is not None and classes != self.card.config.num_classes:
            self._number_classes(classes)

    def _number_classes(self, count: int) -> None:
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise InputError(f"num_classes {count!r} is not a positive whole number", self.size)
        labels = Labels(
            tuple(f"class {index}" for index in range(count)), tuple(range(count)), "unnamed"
        )
        self.detector = with_classes(self.detector, labels)
        self.card = replace(
            self.card,
            config=self.detector.config,
            class_names=labels.names,
            category_ids=labels.category_ids,
            notes=labels.note,
        )
        log.info(f"{count} unnamed classes: the class heads were re-made from those of the file")
