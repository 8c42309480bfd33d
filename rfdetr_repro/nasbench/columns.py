"""What is kept of the matches of every architecture on one split: exactly what AP on any subset of
the images needs, and no more.

AP on a subset depends on the order of a class's detections by score, on the image of each, and on
the thresholds at which it is accepted. Therefore

- scores are left out: only their order is kept, class by class;
- detections below the last accepted one of their class are left out: they lower a precision that
  no recall level reads, whichever images are chosen;
- neighbours that are accepted at the same thresholds, for boxes and masks, may change places
  without a change of AP, so they lie in the order of their images.

A file is a NumPy archive, which any program reads without unpickling.
"""

from __future__ import annotations

import io
import json
import lzma
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rfdetr_repro.spec.arch import Arch, SearchSpace
from rfdetr_repro.spec.errors import InputError, first_line
from rfdetr_repro.spec.files import write_atomic

from .precision import THRESHOLDS, average_precision
from .space import form

Array = np.ndarray[Any, Any]
FORMAT = 1
KINDS = ("bbox", "segm")
_ALL = (1 << THRESHOLDS) - 1
_COLUMNS = ("objects", "ap", "counts", "place", "low", "high", "patterns")
# what a file that is no archive of such columns, or a damaged archive, raises on its way to columns
UNREADABLE = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    EOFError,
    RuntimeError,
    ArithmeticError,
    MemoryError,
    tokenize.TokenError,  # of the header of an array
    zipfile.BadZipFile,
    lzma.LZMAError,
    zlib.error,
)


@dataclass(frozen=True)
class Ranked:
    """The matches of one architecture: by class, then by falling score.

    ``counts``: detections kept of each class, int (classes,). ``place``: image of each detection,
    among the split's images by id, int (n,). ``pattern``: bits 0 to 9 are set where its box, bits
    10 to 19 where its mask is accepted at IoU 0.50 to 0.95, int (n,).
    """

    counts: Array
    place: Array
    pattern: Array

    def average_precision(self, kind: str, objects: Array, inside: Array) -> float | None:
        """AP on the images where ``inside`` is true; see :func:`.precision.average_precision`."""
        label = np.repeat(np.arange(len(self.counts)), self.counts)
        accepted = self.pattern >> (THRESHOLDS * KINDS.index(kind)) & _ALL
        return average_precision(label, self.place, accepted, objects, inside)


def ranked(
    label: Array, place: Array, score: Array, boxes: Array, masks: Array, classes: int
) -> Ranked:
    """The part of the detections of one architecture that AP needs.

    ``label``, ``place``, ``score``, ``boxes`` and ``masks``: class, image, score and accepted
    thresholds of each detection, (n,); of equal scores of a class the earlier image comes first.
    """
    order = np.lexsort((place, -score.astype(np.float64), label))
    label, place = label[order].astype(np.int64), place[order].astype(np.int64)
    pattern = boxes[order].astype(np.int64) | masks[order].astype(np.int64) << THRESHOLDS
    last = np.zeros(classes, np.int64)  # 1 + position of the last accepted detection of the class
    hit = np.flatnonzero(pattern)
    np.maximum.at(last, label[hit], hit + 1)
    kept = np.arange(len(order)) < last[label]
    label, place, pattern = label[kept], place[kept], pattern[kept]
    run = np.cumsum(_begins(label, pattern))
    place = place[np.lexsort((place, run))]
    return Ranked(np.bincount(label, minlength=classes), place, pattern)


def _begins(label: Array, pattern: Array) -> Array:
    """Where a run of equal patterns of one class begins, bool (n,)."""
    new = (label[1:] != label[:-1]) | (pattern[1:] != pattern[:-1])
    return np.append(True, new)[: len(label)]


@dataclass(frozen=True)
class Part:
    """All architectures of a space on one split with the weights of one seed.

    ``about``: origin of the numbers, see :meth:`check`. ``objects``: objects to find, int (images,
    classes). ``ap``: AP on the whole split, float64 (architectures, 2), boxes and masks.
    """

    about: dict[str, Any]
    objects: Array
    ap: Array
    counts: Array
    place: Array
    pattern: Array
    archs: tuple[Arch, ...]
    _ends: Array = field(repr=False)

    @classmethod
    def of(
        cls, about: Mapping[str, Any], objects: Array, ap: Array, found: Sequence[Ranked]
    ) -> Part:
        """The part of the architectures ``found``, in the order of the space in ``about``."""
        space = SearchSpace(**{name: tuple(axis) for name, axis in about["space"].items()})
        counts = np.array([one.counts for one in found], dtype=np.int64)
        place = np.concatenate([one.place for one in found])
        pattern = np.concatenate([one.pattern for one in found])
        return cls._checked(dict(about), space, objects, ap, counts, place, pattern)

    @classmethod
    def _checked(
        cls,
        about: dict[str, Any],
        space: SearchSpace,
        objects: Array,
        ap: Array,
        counts: Array,
        place: Array,
        pattern: Array,
    ) -> Part:
        archs = tuple(space)
        images, classes = objects.shape
        fits = (
            "training" in about
            and counts.shape == (len(archs), classes)
            and ap.shape == (len(archs), len(KINDS))
            and len(place) == len(pattern) == counts.sum()
            and (len(place) == 0 or 0 <= place.min() <= place.max() < images)
        )
        if not fits:
            raise InputError("the columns do not fit each other", hint="get the file again")
        ends = np.append(0, np.cumsum(counts.sum(1)))
        return cls(about, objects, ap, counts, place, pattern, archs, ends)

    @property
    def images(self) -> int:
        """Number of images of the split."""
        return len(self.objects)

    @cached_property
    def places(self) -> dict[tuple[int, ...], int]:
        """The number of each architecture in the order of the space, by its :func:`.space.form`."""
        return {form(arch): place for place, arch in enumerate(self.archs)}

    def ranked(self, number: int) -> Ranked:
        """The matches of the architecture at ``number`` in the order of the space."""
        rows = slice(self._ends[number], self._ends[number + 1])
        return Ranked(self.counts[number], self.place[rows], self.pattern[rows])

    def write(self, path: Path) -> None:
        """Writes the part as a compressed NumPy archive, atomically; the same part gives the same
        bytes.
        """
        label = np.concatenate(
            [np.repeat(np.arange(len(row)), row) for row in self.counts] or [np.zeros(0, int)]
        )
        # an architecture's first detection begins a run too
        begins = _begins(label, self.pattern)
        begins[self._ends[:-1][self._ends[:-1] < len(begins)]] = True
        step = np.diff(self.place, prepend=0)
        step[begins] = self.place[begins]
        patterns, index = np.unique(self.pattern, return_inverse=True)
        columns = {
            "about": np.frombuffer(json.dumps(self.about, sort_keys=True).encode(), np.uint8),
            "objects": _narrow(self.objects, np.uint16),
            "ap": self.ap.astype(np.float64),
            "counts": _narrow(self.counts, np.uint16),
            "place": _narrow(step, np.uint8),
            "low": (index & 255).astype(np.uint8),
            "high": _narrow(index >> 8, np.uint8),
            "patterns": patterns.astype(np.uint32),
        }
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_LZMA) as archive:
            for name, column in columns.items():
                member = io.BytesIO()
                np.lib.format.write_array(member, np.ascontiguousarray(column), allow_pickle=False)
                entry = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
                entry.compress_type = zipfile.ZIP_LZMA
                archive.writestr(entry, member.getvalue())
        write_atomic(path, buffer.getvalue())

    @classmethod
    def read(cls, path: Path) -> Part:
        """The part in a file of :meth:`write`; raises :class:`InputError` for any other file."""
        try:
            with np.load(path, allow_pickle=False) as archive:
                about = json.loads(archive["about"].tobytes())
                columns = {name: archive[name] for name in _COLUMNS}
            if about["format"] != FORMAT:
                raise ValueError(f"its format is {about['format']!r}, not {FORMAT}")
            about = {**about, "seed": int(about["seed"]), "split": str(about["split"])}
            space = SearchSpace(**{name: tuple(axis) for name, axis in about["space"].items()})
            index = columns["low"].astype(np.int64) | columns["high"].astype(np.int64) << 8
            pattern = columns["patterns"].astype(np.int64)[index]
            counts = columns["counts"].astype(np.int64)
            place = _places(counts, pattern, columns["place"].astype(np.int64))
            objects = columns["objects"].astype(np.int64)
            return cls._checked(about, space, objects, columns["ap"], counts, place, pattern)
        except InputError as error:
            raise error.at(path) from error
        except UNREADABLE as error:
            raise InputError(
                f"not a part of the benchmark ({first_line(error)})", path, "get the file again"
            ) from error


def _narrow(numbers: Array, least: type[np.unsignedinteger[Any]]) -> Array:
    """Whole numbers >= 0 in the smallest type from ``least`` on that holds all of them."""
    kind = np.result_type(least, np.min_scalar_type(int(numbers.max(initial=0))))
    return numbers.astype(kind)


def _places(counts: Array, pattern: Array, step: Array) -> Array:
    """Places from their steps, which begin anew with every run."""
    label = np.repeat(np.tile(np.arange(counts.shape[1]), len(counts)), counts.ravel())
    begins = _begins(label, pattern)
    ends = np.append(0, np.cumsum(counts.sum(1)))[:-1]
    begins[ends[ends < len(begins)]] = True
    whole = np.cumsum(step)
    starts = np.flatnonzero(begins)
    lengths = np.diff(np.append(starts, len(step)))
    before = whole[starts] - step[starts]
    return whole - np.repeat(before, lengths)


def parts(folder: Path) -> Iterable[Path]:
    """The files of a benchmark's folder, one for each seed and split."""
    return sorted(folder.glob("seed*-*.npz"))
