"""The trainings of the studies behind ``claims --run``: what each side starts from and trains, how
it is evaluated, and the digest by which a finished training is known again.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rfdetr_repro.claims.pairs import SHARED
from rfdetr_repro.claims.studies import (
    BACKBONE,
    PRETRAINED,
    PRETRAINING_TIMES,
    RANDOM,
    STARTS,
    TUNING_PART,
    WEIGHTS,
    Trained,
)
from rfdetr_repro.data.coco import CocoSplit, Sample
from rfdetr_repro.data.hooks import NO_HOOKS, Hooks
from rfdetr_repro.data.loader import evaluation_batches
from rfdetr_repro.data.network_input import GREY, Letterbox
from rfdetr_repro.data.transfer import batches_on
from rfdetr_repro.evaluation.coco import ImageDetections, detections_in_pixels
from rfdetr_repro.evaluation.predict_split import BATCH, device_of
from rfdetr_repro.model.checkpoints.native import load_supernet
from rfdetr_repro.model.detector import Detector
from rfdetr_repro.model.postprocess import top_k
from rfdetr_repro.search.evaluation import shared_detections
from rfdetr_repro.search.family import between, never_trained
from rfdetr_repro.spec.arch import Arch, SearchSpace
from rfdetr_repro.spec.backbones import backbone_named, with_backbone
from rfdetr_repro.spec.files import sha256_file
from rfdetr_repro.spec.presets import PICO, PICO_TRAIN, PICO_WEIGHTS, Preset
from rfdetr_repro.spec.ranges import choose
from rfdetr_repro.spec.resize_rules import LETTERBOX
from rfdetr_repro.spec.train_config import (
    AVERAGED_PARTS,
    TrainConfig,
    of_length,
    with_settings,
)
from rfdetr_repro.train.model_files import MODEL
from rfdetr_repro.train.prepare import cpu_weights, start_of
from rfdetr_repro.train.recipe import Recipe
from rfdetr_repro.train.run import TrainRequest


@dataclass(frozen=True)
class Scale:
    """How long the trainings of a study are, what they start from, and the space of supernets."""

    steps: int
    start: str  # of STARTS
    space: SearchSpace

    @property
    def words(self) -> str:
        """Like "500 steps from the pico backbone 0123abcd", which the name of each Record states.
        The digits are those of the SHA-256 of the packaged weights, so that trainings that started
        from the weights of another version are not compared with these.
        """
        words = f"{self.steps} steps {STARTS[choose(self.start, STARTS, 'start')]}"
        if self.start == PRETRAINED:
            return f"{words} for {self.pretraining.steps} steps"
        return words if self.start == RANDOM else f"{words} {_digits_of_package()}"

    @property
    def pretraining(self) -> Scale:
        """The scale at which a backbone is pretrained."""
        return replace(self, steps=PRETRAINING_TIMES * self.steps, start=RANDOM)

    def recipe(self, side: Trained, seed: int) -> Recipe:
        """What a side trains, boxes only. Raises :class:`InputError` for settings that cannot
        be.
        """
        steps = self.steps
        if side.tuned:
            steps = math.ceil(steps / TUNING_PART)
        config = replace(
            of_length(PICO_TRAIN, steps),
            seed=seed,
            evaluate_every=0,
            patience=0,
            # an average that is long for the run would stay behind
            ema_tau=min(PICO_TRAIN.ema_tau, steps / AVERAGED_PARTS),
        )
        config = with_settings(config, side.settings)
        return Recipe(_preset(side), config, self._space_of(side)).check()

    def _space_of(self, side: Trained) -> SearchSpace | None:
        if side.shared:
            return self.space
        if not side.draws:
            return None
        arch = _preset(side).arch
        return replace(
            self.space,
            resolutions=(arch.resolution,),
            patches=(arch.patch,),
            windows=(arch.windows,),
        )

    def evaluated(self, side: Trained, base: Arch) -> list[Arch]:
        """The architectures that a trained side is evaluated at: the base, every setting of decoder
        layers and queries where they are compared, and of a supernet every window with these
        settings and every backbone of the space with the largest decoder.
        """
        windows = self.space.windows if side.shared else (base.windows,)
        if side.settings and not side.draws:
            return [base]
        if side.backbone or side.padded or side.windows or side.tuned:
            return [base]
        near = [
            replace(base, windows=count, decoder_layers=depth, queries=queries)
            for count in windows
            for depth in self.space.decoder_layers
            for queries in self.space.queries
        ]
        backbones = _with_largest_decoder(self.space) if side.shared else []
        return list(dict.fromkeys([base, *near, *backbones]))

    def never_drawn(self, side: Trained) -> list[Arch]:
        """Architectures of a supernet with patch sizes that training never drew, and with the
        largest decoder.
        """
        return never_trained(self.space, between(self.space)) if side.shared else []


@cache
def _digits_of_package() -> str:
    return sha256_file(PICO_WEIGHTS)[:8]


def _with_largest_decoder(space: SearchSpace) -> list[Arch]:
    depth = (max(space.decoder_layers),)
    queries = (max(space.queries),)
    return list(replace(space, decoder_layers=depth, queries=queries))


def _preset(side: Trained) -> Preset:
    """The pico size without masks, with the backbone and the windows of the side."""
    row = replace(PICO, model=replace(PICO.model, masks=False))
    if side.backbone:
        row, _ = with_backbone(row, backbone_named(side.backbone))
    if side.one_token:
        row = replace(row, model=replace(row.model, shared_class_token=True))
    if side.windows:
        row = replace(row, arch=replace(row.arch, windows=side.windows))
    if side.tuned:
        row = replace(row, arch=Arch.parse(side.tuned))
    return row


@dataclass(frozen=True)
class Prepared:
    """A training that can start; ``pretraining``: the training before it, whose weights, or those
    of its backbone, become ``initial``.
    """

    side: Trained
    recipe: Recipe
    split: CocoSplit
    initial: dict[str, Tensor] | None
    hooks: Hooks
    pretraining: Prepared | None = None

    @property
    def sha256(self) -> str:
        """Digest of everything that the trained weights depend on, but for the machine: recipe,
        data, initial weights or the training that made them, and changes of the pictures.
        """
        initial = self.initial if self.pretraining is None else None
        named = {
            "run": self.recipe.identity(self.split.sha256, initial),
            "hooks": self.hooks.identity(),
        }
        if self.pretraining is not None:
            named["pretraining"] = self.pretraining.sha256
        return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()

    def earlier(self) -> list[Prepared]:
        """The trainings before this training, the nearest first."""
        before = self.pretraining
        return [] if before is None else [before, *before.earlier()]

    def request(self, folder: Path, device: torch.device, processes: int | None) -> TrainRequest:
        """The request of the training, in a folder of its own below ``folder``."""
        return TrainRequest(
            recipe=self.recipe,
            split=self.split,
            folder=self._place(folder),
            initial=self.initial,
            device=device,
            processes=processes,
            hooks=self.hooks or None,
        )

    def complete(self, folder: Path) -> bool:
        """Whether the training below ``folder`` has ended, with the model file that it then
        writes.
        """
        return (self._place(folder) / MODEL).is_file()

    def _place(self, folder: Path) -> Path:
        seed = self.recipe.train.seed
        name = f"{self.side.variant.replace(' ', '-').replace(',', '')}-{seed}-{self.sha256[:8]}"
        return folder / name


def prepared(
    scale: Scale, side: Trained, seed: int, split: CocoSplit, before: CocoSplit | None = None
) -> Prepared:
    """The training of ``side`` on a train split. ``before``: the split on which backbones are
    pretrained, where the scale starts with that. Each form of backbone is pretrained once, with
    seed 0, whatever the seed. A side that is trained further starts from the supernet of its own
    seed.
    """
    recipe = scale.recipe(side, seed)
    if side.tuned:
        supernet = prepared(scale, Trained(SHARED, shared=True), seed, split, before)
        preset = replace(supernet.recipe.preset, arch=recipe.preset.arch)
        return Prepared(side, replace(recipe, preset=preset), split, None, NO_HOOKS, supernet)
    initial = pretraining = None
    if scale.start == PRETRAINED:
        if before is None:
            raise ValueError("a scale with pretraining and no split for it")
        form = side.backbone or "dinov2-pico"
        pretraining = prepared(
            scale.pretraining, Trained(f"pretraining of {form}", backbone=form), 0, before
        )
    if not side.backbone and scale.start == BACKBONE:
        initial = with_pretrained_backbone(recipe.preset, recipe.train, len(split.classes.names))
    if not side.backbone and scale.start == WEIGHTS:
        start = start_of(recipe.preset, split, PICO_WEIGHTS)
        model = replace(start.preset.model, shared_class_token=side.one_token)
        recipe = replace(recipe, preset=replace(start.preset, model=model))
        initial = start.initial
    hooks = Hooks(augment=PadToSquare()) if side.padded else NO_HOOKS
    return Prepared(side, recipe, split, initial, hooks, pretraining)


def initial_after(ready: Prepared, weights: Path) -> dict[str, Tensor]:
    """What ``ready`` starts from, name of the parameter -> tensor, after the training before it
    wrote the file ``weights``.
    """
    if ready.side.tuned:
        supernet, _, _ = load_supernet(weights)
        return cpu_weights(supernet)
    recipe = ready.recipe
    classes = len(ready.split.classes.names)
    return with_pretrained_backbone(recipe.preset, recipe.train, classes, weights)


def with_pretrained_backbone(
    row: Preset, config: TrainConfig, classes: int, weights: Path = PICO_WEIGHTS
) -> dict[str, Tensor]:
    """The backbone of ``weights``, and random weights by the seed for everything else, as a
    training from random weights draws them.
    """
    torch.manual_seed(config.seed)
    detector = Detector(replace(row.model, num_classes=classes), row.arch)
    pretrained, _, _ = load_supernet(weights)
    detector.backbone.load_state_dict(pretrained.backbone.state_dict())
    return cpu_weights(detector)


class PadToSquare:
    """Adds grey borders, so that a resize to a square keeps the aspect ratio: what
    :data:`~rfdetr_repro.spec.resize_rules.LETTERBOX` does in evaluation.
    """

    identity = "padded to a square, centred on grey 114"

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The sample with borders; boxes in px and masks move with the picture."""
        height, width = sample.image.shape[:2]
        side = max(height, width)
        top, left = Letterbox((height, width), (side, side)).top_left
        rows, columns = slice(top, top + height), slice(left, left + width)
        image = np.full((side, side, 3), GREY, np.uint8)
        image[rows, columns] = sample.image
        masks = sample.masks
        if masks is not None:
            masks = np.zeros((len(sample.labels), side, side), bool)
            masks[:, rows, columns] = sample.masks
        corner = np.array([left, top, left, top], np.float32)
        return replace(sample, image=image, boxes_xyxy=sample.boxes_xyxy + corner, masks=masks)


def detections(
    detector: Detector, split: CocoSplit, archs: Sequence[Arch], padded: bool
) -> dict[Arch, list[ImageDetections]]:
    """Detections of boxes of ``archs``, which must share one backbone, as the side was trained."""
    if not padded:
        return shared_detections(detector, split, archs, masks=False)
    return {arch: _padded_detections(detector, split, arch) for arch in archs}


@torch.inference_mode()
def _padded_detections(detector: Detector, split: CocoSplit, arch: Arch) -> list[ImageDetections]:
    found: list[ImageDetections] = []
    infos_left = iter(split.images)
    batches = evaluation_batches(split, arch.input_hw, BATCH, resize=LETTERBOX)
    for batch in batches_on(device_of(detector), batches):
        ranked = top_k(detector(batch.images, arch, masks=False), arch.queries, masks=False)
        rows = zip(
            ranked.scores.float().cpu().numpy(),
            ranked.labels.cpu().numpy(),
            ranked.boxes_xyxy.float().cpu().numpy(),
            islice(infos_left, len(batch.images)),
            strict=True,
        )
        for scores, labels, boxes, info in rows:
            hw = (info.height, info.width)
            own = Letterbox(hw, arch.input_hw).boxes_of_picture(boxes)
            found.append(detections_in_pixels(info.id, hw, scores, labels, own, None))
    return found
