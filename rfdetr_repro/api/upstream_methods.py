"""Methods of upstream's class that need no code of their own here, or that are refused."""

from __future__ import annotations

import logging
import os
from typing import Any

import torch

from rfdetr_repro.model.checkpoints.native import ModelCard
from rfdetr_repro.model.checkpoints.upstream import described
from rfdetr_repro.model.detector import Detector
from rfdetr_repro.records.record import Accuracy
from rfdetr_repro.spec.errors import InputError

log = logging.getLogger(__name__)


class UpstreamMethods:
    """Upstream's other names, for :class:`.rfdetr.RFDETR`."""

    detector: Detector
    card: ModelCard

    def evaluate(
        self,
        dataset_dir: str | os.PathLike[str],
        split: str = "val",
        shape: tuple[int, int] | None = None,
        drop_bad: bool = False,
    ) -> dict[str, Accuracy | None]:
        """COCO metrics in PyTorch, see :meth:`.rfdetr.RFDETR.evaluate`."""
        raise NotImplementedError

    def optimize_for_inference(self, *_: Any, **settings: Any) -> None:
        """Prepares nothing; prints how to make a fast file.

        Raises :class:`InputError` for a number format other than float32.
        """
        if settings.get("dtype") not in (None, torch.float32, "float32"):
            raise InputError(
                "PyTorch inference here is in float32",
                hint="use .export() and --precision fp16 of the export command",
            )
        log.info(
            "nothing to prepare: PyTorch inference runs as it is; for speed use .export() and an "
            "inference runtime"
        )

    inference = optimize_for_inference

    def remove_optimized_model(self) -> None:
        """Upstream's counterpart of :meth:`optimize_for_inference`; nothing to remove here."""

    def get_model_config(self) -> dict[str, Any]:
        """Upstream's configuration of this model, under upstream's names."""
        names = list(self.card.class_names)
        ids = list(self.card.category_ids)
        return described(self.card.config, self.card.arch, names, ids)["model_config"]

    def val(
        self, dataset_dir: str | os.PathLike[str], **settings: Any
    ) -> dict[str, Accuracy | None]:
        """:meth:`evaluate` on the val split."""
        return self.evaluate(dataset_dir, **{"split": "val", **settings})

    def deploy_to_roboflow(self, *_: Any, **__: Any) -> None:
        """Refused: this project sends nothing anywhere."""
        raise InputError(
            "models are not uploaded from here",
            hint='use .save("weights.pth"), which upstream\'s program uploads',
        )

    export_for_roboflow = deploy_to_roboflow
