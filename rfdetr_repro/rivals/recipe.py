"""The recipe of a rival's training: the settings of RF-DETR's recipe that a rival has too, with the
rates of its authors at full width.

Steps, images per step, augmentation, order of images, moving average and schedule are those of
RF-DETR. What is RF-DETR's alone (weights of its losses, layer decay, sampling of architectures,
frozen parts, bfloat16) cannot be set for a rival. No torch here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rfdetr_repro.baselines.baseline import Size
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.train_config import TrainConfig, with_settings

from .names import PICO_SIZES

# settings that a rival's training has
SETTINGS = (
    "steps",
    "batch_size",
    "accumulate",
    "seed",
    "lr",
    "lr_encoder",
    "weight_decay",
    "beta2",
    "warmup_steps",
    "cooldown_share",
    "cooldown_form",
    "clip_norm",
    "ema_decay",
    "ema_tau",
    "flip_probability",
    "crop_probability",
    "checkpoint_every",
    "evaluate_every",
    "patience",
)
# family -> rates of the heads and of the backbone in the authors' files, for weights that start
# from a pretrained backbone (D-FINE: S; RT-DETR: R50; LW-DETR: all sizes; DEIMv2 and RT-DETRv2: as
# the method that they build on)
RATES = {
    "dfine": (2.5e-4, 1.25e-4),
    "deimv2": (2.5e-4, 1.25e-4),
    "rtdetr": (1e-4, 5e-5),
    "rtdetrv2": (1e-4, 5e-5),
    "lwdetr": (1e-4, 1.5e-4),
}
# what RF-DETR's recipe has and a rival's has not: parts of the loss come weighted from the library
_WITHOUT = {
    "layer_decay": 1.0,
    "component_decay": 1.0,
    "bfloat16": False,
    "precision": "auto",
    "compile": False,
    "cuda_graph": False,
    "channels_last": False,
    "class_weight": 1.0,
    "l1_weight": 1.0,
    "giou_weight": 1.0,
    "dense_weight": 0.0,
    "base_share": 0.0,
}


def rival_recipe(size: Size, ours: TrainConfig) -> TrainConfig:
    """The recipe of a rival before the user's settings. ``ours``: RF-DETR's in the same comparison,
    whose rates a rival of pico width has too.
    """
    without: dict[str, Any] = dict(_WITHOUT)
    if size.id not in PICO_SIZES:
        without["lr"], without["lr_encoder"] = RATES[size.family]
    return replace(ours, **without)


def with_rival_settings(config: TrainConfig, given: Sequence[str]) -> TrainConfig:
    """``config`` with settings like "lr=2e-4". Raises :class:`InputError` for a setting that only
    RF-DETR's training has, and as :func:`.train_config.with_settings` does.
    """
    for text in given:
        name = text.partition("=")[0]
        if name in TrainConfig.__dataclass_fields__ and name not in SETTINGS:
            raise InputError(
                f"{name} is a setting of RF-DETR's training only",
                hint=f"write MODEL:{name}=VALUE with the name of an RF-DETR; rivals have "
                f"{', '.join(SETTINGS)}",
            )
    return with_settings(config, given)


@dataclass(frozen=True)
class Whole:
    """The only architecture of a rival, as the loop of a training asks for one."""

    key: str
    input_hw: tuple[int, int]


@dataclass(frozen=True)
class RivalRecipe:
    """What identifies a rival's run. ``model``: the library's configuration as JSON, with the
    classes of the data; ``library``: its version.
    """

    size: Size
    train: TrainConfig
    model: str
    library: str
    masks: bool = False
    space: None = None

    def check(self) -> RivalRecipe:
        """Returns the recipe."""
        return self

    def archs_of_step(self, step: int) -> tuple[Whole, ...]:
        """The rival itself, in every step."""
        return self.possible_archs()

    def possible_archs(self) -> tuple[Whole, ...]:
        """The rival itself."""
        height, width = self.size.hw
        return (Whole(f"{self.size.id}-{height}x{width}", self.size.hw),)

    def identity(self, data_sha256: str, initial_sha256: str = "") -> str:
        """Text that is equal for two runs with the same recipe, data and initial weights."""
        settings = asdict(self.train)
        fields: dict[str, Any] = {
            "rival": self.size.id,
            "input": list(self.size.hw),
            "model": json.loads(self.model),
            "transformers": self.library,
            "train": {name: settings[name] for name in SETTINGS},
            "data": data_sha256,
        }
        if initial_sha256:
            fields["initial"] = initial_sha256
        return json.dumps(fields, sort_keys=True)
