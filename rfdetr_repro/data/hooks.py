"""Own code in the making of batches: an augmentation of each image, and the choice of the images of
each step.

Both get the random numbers that they need. A hook that uses these numbers only, and neither the
time nor a generator or state of its own, gives the same batches in a resumed run, whatever the
number of threads and processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rfdetr_repro.spec.errors import InputError

from .coco import CocoSplit, Sample

# (image with its targets, random numbers) -> image with its targets
Augment = Callable[[Sample, np.random.Generator], Sample]
# (step from 0, number of images, random numbers) -> that many indices into the train split
Sampler = Callable[[int, int, np.random.Generator], Sequence[int]]


@dataclass(frozen=True)
class Hooks:
    """The hooks of a run.

    ``augment`` changes an image before this package flips, crops and resizes it. It may be called
    from several threads at once, and must not write into the arrays that it gets. ``sampler``
    replaces the shuffling. A hook may have a text ``identity``, such as "mosaic 2": a run is not
    resumed with another one. Without it the name of the function counts, and a resumed run warns.
    """

    augment: Augment | None = None
    sampler: Sampler | None = None

    def __post_init__(self) -> None:
        for name, hook in self.given().items():
            if not callable(hook):
                raise InputError(f"{name} = {hook!r} is not a function")

    def __bool__(self) -> bool:
        return bool(self.given())

    def given(self) -> dict[str, Any]:
        """Name -> hook, of the hooks that are set."""
        pairs = {"augment": self.augment, "sampler": self.sampler}
        return {name: hook for name, hook in pairs.items() if hook is not None}

    def identity(self) -> dict[str, str]:
        """Name -> what a resumed run is compared by."""
        return {name: identity_of(hook) for name, hook in self.given().items()}

    def without_identity(self) -> list[str]:
        """Names of the hooks that do not state an identity, with their functions."""
        return [
            f"{name} {identity_of(hook)}"
            for name, hook in self.given().items()
            if not isinstance(getattr(hook, "identity", None), str)
        ]

    def indices(self, step: int, count: int, images: int, seed: int) -> np.ndarray:
        """int64 (count,): what the sampler chooses for a step.

        Raises :class:`InputError` for another number of indices, and for an index that is none.
        """
        if self.sampler is None:
            raise ValueError("no sampler")
        chosen = self.sampler(step, count, np.random.default_rng((seed, step, _SAMPLER)))
        try:
            found = np.asarray(chosen)
            whole = found.dtype.kind in "iu"
        except ValueError:
            whole = False
        where = f"the sampler {identity_of(self.sampler)}, step {step}"
        if not whole or found.shape != (count,):
            raise InputError(f"the sampler did not give {count} whole numbers", where)
        if bad := [index for index in found.tolist() if not 0 <= index < images]:
            raise InputError(
                f"the sampler chose image {bad[0]}", where, f"images count from 0 to {images - 1}"
            )
        return found.astype(np.int64)

    def augmented(self, sample: Sample, classes: int, key: tuple[int, ...]) -> Sample:
        """The sample after the augmentation, checked. ``key`` identifies the sample's place in the
        run: seed, step, micro-batch and position.

        Raises :class:`InputError` for a result that is not a sample.
        """
        if self.augment is None:
            return sample
        result = self.augment(sample, np.random.default_rng((*key, _AUGMENT)))
        if why := _why_unusable(result, classes, sample.masks is not None):
            raise InputError(
                f"the augmentation {identity_of(self.augment)} gave {why}",
                f"image {sample.image_id}",
                "return dataclasses.replace(sample, ...)",
            )
        return replace(
            result,
            boxes_xyxy=np.asarray(result.boxes_xyxy, np.float32).reshape(-1, 4),
            labels=np.asarray(result.labels, np.int64).reshape(-1),
        )


NO_HOOKS = Hooks()

# separate these random numbers from those of the package
_AUGMENT = 11
_SAMPLER = 12


def identity_of(hook: Any) -> str:
    """The stated identity of a hook, or the name of its function or class."""
    stated = getattr(hook, "identity", None)
    if isinstance(stated, str):
        return stated
    named = hook if hasattr(hook, "__qualname__") else type(hook)
    return f"{named.__module__}.{named.__qualname__}"


def check_hooks(hooks: Hooks, split: CocoSplit, count: int, seed: int, masks: bool) -> list[str]:
    """Tries the hooks on the first images, and returns sentences about what a resumed run cannot
    rely on.

    Raises :class:`InputError` for hooks that do not work, and for a sampler that gives two answers
    to one question: the processes of a run must agree.
    """
    told = []
    indices = np.arange(min(count, len(split)))
    if hooks.sampler is not None:
        first, again = (hooks.indices(0, count, len(split), seed) for _ in range(2))
        if not np.array_equal(first, again):
            raise InputError(
                "the sampler chooses differently when it is asked again",
                identity_of(hooks.sampler),
                "take random numbers from its argument only",
            )
        indices = first
    if hooks.augment is not None:
        sample = split.sample(int(indices[0]), masks)
        one, other = (
            hooks.augmented(sample, len(split.classes), (seed, 0, 0, 0)) for _ in range(2)
        )
        if not _equal(one, other):
            told.append(
                f"the augmentation {identity_of(hooks.augment)} changes one image in two ways with "
                f"the same random numbers: a resumed run will not equal an uninterrupted run"
            )
    return told


def _why_unusable(result: Any, classes: int, masks: bool) -> str:
    """Why a result of an augmentation is no sample; empty if it is one."""
    if not isinstance(result, Sample):
        return f"{type(result).__name__} instead of a Sample"
    image = result.image
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3:
        return "an image that is not an array uint8 (height, width, 3)"
    height, width, channels = image.shape
    if channels != 3 or not height or not width:
        return f"an image of shape {image.shape}"
    return _why_wrong_objects(result, classes, masks)


def _why_wrong_objects(result: Sample, classes: int, masks: bool) -> str:
    height, width = result.image.shape[:2]
    boxes = np.asarray(result.boxes_xyxy)
    labels = np.asarray(result.labels)
    count = len(labels)
    if boxes.shape != (count, 4):
        return f"boxes of shape {boxes.shape} for {count} labels"
    if not np.isfinite(boxes).all():
        return "a box that is not finite"
    if count and labels.dtype.kind not in "iu":
        return "labels that are not whole numbers"
    if ((labels < 0) | (labels >= classes)).any():
        return f"a label outside 0..{classes - 1}"
    if masks != (result.masks is not None):
        return "no masks" if masks else "masks that the data do not have"
    if isinstance(result.masks, np.ndarray) and result.masks.shape != (count, height, width):
        return f"masks of shape {result.masks.shape}, not {(count, height, width)}"
    return ""


def _equal(one: Sample, other: Sample) -> bool:
    pairs = [
        (one.image, other.image),
        (one.boxes_xyxy, other.boxes_xyxy),
        (one.labels, other.labels),
    ]
    if isinstance(one.masks, np.ndarray) and isinstance(other.masks, np.ndarray):
        pairs.append((one.masks, other.masks))
    return all(np.array_equal(first, second) for first, second in pairs)
