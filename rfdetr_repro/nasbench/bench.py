"""The benchmark's interface for programs: AP of an architecture on some images, paid for in image
evaluations, and the latency of the architecture.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from rfdetr_repro.spec.arch import Arch, SearchSpace
from rfdetr_repro.spec.errors import InputError

from .columns import KINDS, Part, Ranked, parts
from .latency import Latencies, Timing
from .space import form

Array = np.ndarray[Any, Any]
CHECKOUT = Path(__file__).resolve().parents[2] / "results" / "nasbench"
LATENCIES = "latency.json"


@dataclass(frozen=True)
class Answer:
    """AP of one architecture, as fractions in 0..1; None where the images show no object.

    ``images``: number of images; ``paid``: number of image evaluations that this answer cost,
    without those that were paid before.
    """

    ap: float | None
    mask_ap: float | None
    images: int
    paid: int


@dataclass
class NasBench:
    """The parts of the benchmark, by (seed, split), and what was paid so far.

    ``evaluations``: number of image evaluations paid; each pair of architecture and image is paid
    once per seed and split. ``queries``: number of calls of :meth:`query`.
    """

    parts: Mapping[tuple[int, str], Part]
    latencies: Latencies | None = None
    evaluations: int = 0
    queries: int = 0
    _paid: dict[tuple[int, str, Arch], Array] = field(default_factory=dict, repr=False)

    @classmethod
    def load(cls, folder: str | Path | None = None) -> NasBench:
        """The benchmark in ``folder``; None: ``results/nasbench`` of this repository.

        Every seed and split is a file of its own, so a folder may hold more or fewer of them.
        Raises :class:`InputError` for a folder without such files, and for damaged files.
        """
        where = CHECKOUT if folder is None else Path(folder)
        found: dict[tuple[int, str], Part] = {}
        for path in parts(where):
            part = Part.read(path)
            key = part.about["seed"], part.about["split"]
            if key in found:
                raise InputError(
                    f"another file holds seed {key[0]} on {key[1]} too", path, "remove one of them"
                )
            found[key] = part
        if not found:
            raise InputError(
                "no part of the benchmark is in this folder",
                where,
                "name results/nasbench of a checkout of the repository (--folder); an installed "
                "package has none",
            )
        spaces = {part.archs for part in found.values()}
        if len(spaces) > 1:
            raise InputError(
                "the files are of different spaces", where, "keep the files of one space"
            )
        timed = where / LATENCIES
        archs = next(iter(spaces))
        return cls(found, Latencies.read(timed, archs) if timed.exists() else None)

    @property
    def archs(self) -> tuple[Arch, ...]:
        """Every architecture, in the order of the space."""
        return next(iter(self.parts.values())).archs

    @property
    def space(self) -> SearchSpace:
        """The axes of the space."""
        axes = next(iter(self.parts.values())).about["space"]
        return SearchSpace(**{name: tuple(axis) for name, axis in axes.items()})

    def part(self, seed: int = 0, split: str = "val") -> Part:
        """The part of a seed and split; raises :class:`InputError` where it is not held."""
        if (seed, split) not in self.parts:
            held = ", ".join(f"seed {number} on {name}" for number, name in sorted(self.parts))
            raise InputError(
                f"the benchmark does not hold seed {seed} on {split}", hint=f"it holds {held}"
            )
        return self.parts[seed, split]

    def place(self, arch: Arch | str) -> int:
        """The number of an architecture in the order of the space; a resolution may be written as
        any that rounds to the same input. Raises :class:`InputError` outside the space.
        """
        one = Arch.parse(arch) if isinstance(arch, str) else arch
        places = next(iter(self.parts.values())).places
        key = form(one)
        if key not in places:
            axes = "; ".join(
                f"{name} {', '.join(map(str, axis))}" for name, axis in vars(self.space).items()
            )
            raise InputError(f"{one.key} is not in the benchmark's space", hint=axes)
        return places[key]

    def order(self, seed: int = 0, split: str = "val") -> tuple[int, ...]:
        """The images in the order in which ``query(images=N)`` takes them: shuffled once, the same
        for every architecture, seed and machine.
        """
        return shuffled(self.part(seed, split).images)

    def query(
        self,
        arch: Arch | str,
        seed: int = 0,
        images: int | Sequence[int] | None = None,
        split: str = "val",
    ) -> Answer:
        """AP of ``arch`` on ``images``, which are paid for.

        ``images``: None for the whole split; a number N for the first N of :meth:`order`; or places
        of images among the split's images by id. The numbers equal an evaluation of the
        architecture alone on these images. Raises :class:`InputError` for an architecture, a part
        or images that the benchmark does not hold.
        """
        part = self.part(seed, split)
        place = self.place(arch)
        inside = self._inside(part, images)
        known = self._paid.setdefault(
            (seed, split, part.archs[place]), np.zeros(part.images, dtype=bool)
        )
        paid = int((inside & ~known).sum())
        known |= inside
        self.evaluations += paid
        self.queries += 1
        if inside.all():
            values = [float(value) for value in part.ap[place]]
            return Answer(values[0], values[1], part.images, paid)
        one = part.ranked(place)
        boxes, masks = (one.average_precision(kind, part.objects, inside) for kind in KINDS)
        return Answer(boxes, masks, int(inside.sum()), paid)

    def matches(self, arch: Arch | str, seed: int = 0, split: str = "val") -> Ranked:
        """The matches behind the answers, of every image, for studies that need more than AP. They
        are not paid for.
        """
        return self.part(seed, split).ranked(self.place(arch))

    @property
    def passes(self) -> int:
        """Backbone passes behind the paid evaluations: an image through a backbone serves all
        architectures that differ in decoder layers and queries only.
        """
        seen: dict[tuple[Any, ...], Array] = {}
        for (seed, split, arch), images in self._paid.items():
            key = (seed, split, arch.backbone)
            seen[key] = seen.get(key, False) | images
        return sum(int(images.sum()) for images in seen.values())

    def forget(self) -> None:
        """Starts the counters anew; everything must be paid again."""
        self.evaluations = self.queries = 0
        self._paid.clear()

    def latency(self, arch: Arch | str, on: str = "onnxruntime-1") -> Timing:
        """The latency of ``arch`` on a runtime and number of threads, measured or modelled; free.

        ``on``: a name of ``latencies.names``. Raises :class:`InputError` for an unknown name, and
        where the folder holds no latencies.
        """
        if self.latencies is None:
            raise InputError("this folder holds no latencies", hint=f"it needs a file {LATENCIES}")
        return self.latencies.of(self.place(arch), on)

    def _inside(self, part: Part, images: int | Sequence[int] | None) -> Array:
        inside = np.zeros(part.images, dtype=bool)
        if images is None:
            return ~inside
        if isinstance(images, (int, np.integer)):
            if isinstance(images, bool) or not 1 <= images <= part.images:
                raise InputError(
                    f"{images} images of a split of {part.images}",
                    hint=f"give a number from 1 to {part.images}",
                )
            chosen: Sequence[int] = shuffled(part.images)[:images]
        else:
            chosen = list(images)
        numbers = np.asarray(chosen)
        whole = numbers.ndim == 1 and len(numbers) and np.issubdtype(numbers.dtype, np.integer)
        if not whole or numbers.min() < 0 or numbers.max() >= part.images:
            raise InputError(
                f"these are not places of images: {str(chosen)[:60]}",
                hint=f"give whole numbers from 0 to {part.images - 1}",
            )
        inside[numbers] = True
        return inside


@lru_cache(maxsize=8)
def shuffled(images: int) -> tuple[int, ...]:
    """The numbers 0 to ``images`` - 1 in the order of their SHA-256, which no version of a random
    generator changes.
    """
    return tuple(sorted(range(images), key=lambda one: hashlib.sha256(str(one).encode()).digest()))
