"""A training run's recipe: model, settings and space; and the architectures that each step trains,
a pure function of (seed, step).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import product
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from rfdetr_repro.model.checkpoints.native import sha256_tensors
from rfdetr_repro.spec.arch import Arch, SearchSpace
from rfdetr_repro.spec.errors import InputError, shortened
from rfdetr_repro.spec.flops import total_flops
from rfdetr_repro.spec.model_config import ModelConfig
from rfdetr_repro.spec.presets import Preset
from rfdetr_repro.spec.train_config import PARTS, TrainConfig

# units of patch x windows by which a multi-scale side may differ from the architecture's own side
# (architecture facts section 9)
MOST_UNITS = 5


class Pass(Protocol):
    """What a step trains on a micro-batch, such as an architecture."""

    @property
    def key(self) -> str:
        """Its name in logs and errors."""

    @property
    def input_hw(self) -> tuple[int, int]:
        """Height and width of the images, px."""


class LoopRecipe(Protocol):
    """What :class:`.loop.Loop` asks of a recipe; :class:`Recipe` is RF-DETR's."""

    @property
    def train(self) -> TrainConfig:
        """The settings."""

    @property
    def masks(self) -> bool:
        """Whether targets need masks."""

    @property
    def space(self) -> SearchSpace | None:
        """The space that architectures are drawn from; None: one model."""

    def check(self) -> Any:
        """Returns the recipe. Raises :class:`InputError` for settings that contradict each
        other.
        """

    def archs_of_step(self, step: int) -> Sequence[Pass]:
        """What a step trains, on the same images."""

    def possible_archs(self) -> Sequence[Pass]:
        """Everything that :meth:`archs_of_step` may give."""


@dataclass(frozen=True)
class Recipe:
    """What identifies a run; resuming with another recipe is refused.

    ``space`` None trains the preset's own architecture only.
    """

    preset: Preset
    train: TrainConfig
    space: SearchSpace | None = None

    @property
    def masks(self) -> bool:
        """Whether the model predicts masks."""
        return self.preset.model.masks

    def check(self) -> Recipe:
        """Returns the recipe.

        Raises :class:`InputError` for settings that contradict each other.
        """
        if self.space is not None:
            self.space.check()
            depth = max(self.space.decoder_layers)
            queries = max(self.space.queries)
            if depth > self.preset.model.decoder_layers or queries > self.preset.model.queries:
                stored = (
                    f"the model stores {self.preset.model.decoder_layers} layers and "
                    f"{self.preset.model.queries} queries"
                )
                raise InputError(
                    f"{stored}, the space needs {depth} and {queries}",
                    hint="use other weights, or a smaller space",
                )
        if self.space is None and self.train.sampling != "uniform":
            raise InputError(
                "the sandwich rule needs a search space",
                hint="train a supernet, or leave sampling out",
            )
        if self.space is None and self.train.draw_heads:
            raise InputError(
                "draw_heads=true needs a search space to draw decoder layers and queries from",
                hint="train a supernet, or leave draw_heads out",
            )
        if self.space is not None and self.train.multi_scale:
            raise InputError(
                "a supernet draws its own resolutions",
                hint="leave multi_scale out, or train one fixed size",
            )
        for arch in self.possible_archs():
            self.preset.model.check_arch(arch.patch, arch.windows)
        self._check_freeze()
        self._check_compile()
        return self

    def _check_compile(self) -> None:
        """Raises :class:`InputError` where torch.compile would compile many architectures, or has
        not been tried.
        """
        if not self.train.compile:
            return
        if self.space is not None or self.train.multi_scale:
            raise InputError(
                "compile=true needs one size of images and one architecture",
                hint="train one fixed size without multi_scale, or leave compile out",
            )
        if self.train.checkpoint_activations:
            raise InputError(
                "compile=true and checkpoint_activations=true have not been tried together",
                hint="leave one of them out",
            )

    def _check_freeze(self) -> None:
        """Raises :class:`InputError` where the model lacks a frozen part, or no part is left."""
        frozen = set(self.train.freeze)
        if not self.preset.model.masks and "mask_head" in frozen:
            raise InputError(
                "freeze names mask_head, but the model predicts no masks",
                hint="leave mask_head out",
            )
        if not self.preset.model.masks and frozen >= set(PARTS) - {"mask_head"}:
            raise InputError(
                "freeze names every part of this model, so there is nothing to train",
                hint="leave a part out, such as heads",
            )

    def archs_of_step(self, step: int) -> tuple[Arch, ...]:
        """The architectures that a step trains, on the same images: one random architecture, and
        with the sandwich rule also the two extremes.

        The random architecture is the base architecture with probability ``base_share``, else a
        backbone of the space, uniformly. Two grid points of the space that round to the same size
        are one backbone, drawn as often as any other.
        """
        rng = np.random.default_rng((self.train.seed, 1, step))
        if self.space is None:
            return (_scaled(self.preset.arch, rng) if self.train.multi_scale else self.preset.arch,)
        archs = self.space.training_archs()
        base = rng.random() < self.train.base_share
        drawn = self.preset.arch if base else archs[int(rng.integers(len(archs)))]
        if self.train.draw_heads:
            depth, queries = _heads(self.space)[int(rng.integers(len(_heads(self.space))))]
            drawn = replace(drawn, decoder_layers=depth, queries=queries)
        return (
            (drawn,)
            if self.train.sampling == "uniform"
            else (*extremes(self.preset.model, self.space), drawn)
        )

    def possible_archs(self) -> tuple[Arch, ...]:
        """All architectures that :meth:`archs_of_step` may draw; the preset's own without a
        space.
        """
        if self.space is None:
            return (self.preset.arch,)
        drawn = (
            *self.space.training_archs(),
            *((self.preset.arch,) if self.train.base_share else ()),
        )
        if not self.train.draw_heads:
            return drawn
        return tuple(
            replace(arch, decoder_layers=depth, queries=queries)
            for arch in drawn
            for depth, queries in _heads(self.space)
        )

    def identity(self, data_sha256: str, initial: Mapping[str, Tensor] | None = None) -> str:
        """Text that is equal for two runs with the same recipe, data and initial weights."""
        preset = {
            **asdict(self.preset),
            "model": self.preset.model.stated(),
            "arch": self.preset.arch.knobs(),
        }
        fields = {
            "preset": preset,
            "train": self.train.settings(),
            "space": self.space and asdict(self.space),
        }
        start = {} if initial is None else {"initial": sha256_tensors(initial)}
        return json.dumps({**fields, "data": data_sha256, **start}, sort_keys=True)


@lru_cache(maxsize=4)
def extremes(model: ModelConfig, space: SearchSpace) -> tuple[Arch, Arch]:
    """(largest, smallest) of the trained architectures of a space, by operations."""
    ordered = sorted(
        space.training_archs(), key=lambda arch: (total_flops(model, arch, "eager"), arch)
    )
    return ordered[-1], ordered[0]


@lru_cache(maxsize=4)
def _heads(space: SearchSpace) -> tuple[tuple[int, int], ...]:
    """Decoder layers and queries that a step with ``draw_heads`` may draw. No decoder layer is no
    draw of its own: the loss of the encoder is part of every step.
    """
    depths = dict.fromkeys(max(1, depth) for depth in space.decoder_layers)
    return tuple(product(depths, dict.fromkeys(space.queries)))


def _scaled(arch: Arch, rng: np.random.Generator) -> Arch:
    """Upstream's multi-scale rule: both sides longer or shorter by up to 5 units of patch x
    windows, never below 2.
    """
    unit = arch.patch * arch.windows
    offset = int(rng.integers(-MOST_UNITS, MOST_UNITS + 1))
    height, width = (max(2, side // unit + offset) * unit for side in arch.input_hw)
    return replace(arch, resolution=height, width=width)


def changed(stored: str | None, now: str) -> str:
    """What differs between two texts of :meth:`Recipe.identity`, to append to a sentence: up to
    three names with both values; empty if one is not such a text.
    """
    try:
        before, after = _flat(json.loads(stored or "")), _flat(json.loads(now))
    except ValueError:
        return ""
    names = sorted(name for name in before | after if before.get(name) != after.get(name))
    told = [f"{name} was {_told(before, name)}, now {_told(after, name)}" for name in names[:3]]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f": {'; '.join(told)}{more}" if told else ""


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, inner in value.items():
        if isinstance(inner, dict):
            found |= _flat(inner, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = inner
    return found


def _told(values: Mapping[str, Any], name: str) -> str:
    if name not in values:
        return "the default" if name.startswith("train.") else "none"
    value = values[name]
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        value = ",".join(value)
    return shortened(value if isinstance(value, str) else json.dumps(value), 60)
