"""The category of each output class of an adopted detector: by name, by count, or by the classes
that the detector uses on images.

A detector of n categories with the ids 1..n may have n classes in order of id, n + 1 classes whose
number is the id (class 0 is never used), or n + 1 classes of which the last is never used. The
shapes of the last two are equal, and a wrong choice shifts every class by 1. The choice is
therefore proved on images, by a class that only one mapping allows or by labelled objects;
otherwise the user must choose.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from rfdetr_repro.spec.errors import InputError

CLASSES = ("order", "ids", "background-first")
COCO_IDS = 91  # number of classes of a detector whose class number is COCO's category id, 0 to 90
# detections on labelled objects that a proof needs, and the factor by which they must exceed those
# of another mapping
ENOUGH = 2
CLEAR = 3
USED = 0.2  # score above which a class counts as used


class Categories(NamedTuple):
    """Ids and names of the data set's categories, in order of id."""

    ids: tuple[int, ...]
    names: tuple[str, ...]


class Evidence(Protocol):
    """Observations of a file's detections on images."""

    def used(self) -> set[int]:
        """The classes that were seen with confidence."""
        ...

    def pairs(self) -> list[tuple[int, int]]:
        """(class of the detection, category id of the object), for confident detections on labelled
        objects.
        """
        ...


class ClassMap(NamedTuple):
    """Category id and name of each output class, and how the mapping was found.

    An id below 0 is no category of the data set.
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]
    how: str


def join(
    categories: Categories | None,
    count: int,
    names: Sequence[str],
    evidence: Evidence,
    *,
    asked: str | None = None,
    settled: bool = True,
    path: str | Path = "",
) -> ClassMap:
    """The mapping of ``count`` output classes to categories.

    ``names``: the class names in the file's metadata, which may be empty. ``evidence``: the file's
    detections on images. ``asked``: one of CLASSES. ``settled``: False where ``count`` is only the
    least number of classes that the observed labels allow. Raises :class:`InputError` if no mapping
    fits, or if several different mappings fit.
    """
    if categories is None:
        return ClassMap(
            tuple(range(count)),
            _padded(names, count),
            "from the file's metadata" if names else "by number",
        )
    if asked is None and names:
        by_name = _by_name(categories, count, names, path)
        if by_name is not None:
            return by_name
    maps = {kind: _map(kind, categories, count, settled, asked == kind) for kind in CLASSES}
    fitting = {kind: found for kind, found in maps.items() if found is not None}
    if asked is not None:
        if asked not in fitting:
            raise InputError(
                f"{_counts(count, categories)}: the mapping {asked!r} does not fit",
                path,
                _hint(fitting),
            )
        return fitting[asked]._replace(how=f"{fitting[asked].how}, as asked")
    if not fitting:
        raise InputError(
            _counts(count, categories), path, "give the categories that the model was trained on"
        )
    if len({_effect(found, categories) for found in fitting.values()}) == 1:
        found = next(iter(fitting.values()))
        seen = set() if settled else evidence.used()
        if seen and not any(_is_category(found, label, categories) for label in seen):
            listed = ", ".join(map(str, sorted(seen)[:8]))
            what = (
                f"{_counts(count, categories)}: none of the classes used on pictures ({listed}) is "
                f"one of its categories"
            )
            raise InputError(what, path, _hint(fitting))
        return found
    return _proved(fitting, evidence, categories, count, path)


def _proved(
    fitting: dict[str, ClassMap],
    evidence: Evidence,
    categories: Categories,
    count: int,
    path: str | Path,
) -> ClassMap:
    seen = evidence.used()
    shown = ", ".join(map(str, sorted(seen)[:8]))
    known = [
        found
        for found in fitting.values()
        if seen and all(_is_category(found, label, categories) for label in seen)
    ]
    # one mapping of each effect
    known = list({_effect(found, categories): found for found in reversed(known)}.values())
    if len(known) == 1:
        return known[0]._replace(
            how=f"{known[0].how}, proved by the classes used on pictures ({shown})"
        )
    pairs = evidence.pairs() if known else []
    hits = [
        sum(label < len(found.ids) and found.ids[label] == number for label, number in pairs)
        for found in known
    ]
    if hits and max(hits) >= ENOUGH and sorted(hits)[-2] <= max(hits) / CLEAR:
        found = known[hits.index(max(hits))]
        return found._replace(
            how=f"{found.how}, proved by {max(hits)} of {len(pairs)} detections on labelled objects"
        )
    used = (
        f"the classes used on pictures ({shown}) do not decide which"
        if seen
        else "no class is used with confidence on the pictures"
    )
    what = f"{_counts(count, categories)}: the mapping between them cannot be proved, {used}"
    raise InputError(what, path, _hint(fitting))


def _is_category(found: ClassMap, label: int, categories: Categories) -> bool:
    return label < len(found.ids) and found.ids[label] in categories.ids


def _effect(found: ClassMap, categories: Categories) -> tuple[int, ...]:
    """The categories that a class map assigns; no choice is needed between two maps with the same
    effect.
    """
    ids = [number if number in categories.ids else -1 for number in found.ids]
    while ids and ids[-1] == -1:
        ids.pop()
    return tuple(ids)


def _hint(fitting: dict[str, ClassMap]) -> str:
    """The hint, which is short because --help explains the choices."""
    ways = [f"--classes {kind}" for kind in fitting]
    return (
        f"choose {' or '.join(ways)}"
        if ways
        else "give the categories that the model was trained on"
    )


def _counts(count: int, categories: Categories) -> str:
    return (
        f"the model has {count} classes, the data set {len(categories.ids)} up to id "
        f"{max(categories.ids)}"
    )


def _map(
    kind: str, categories: Categories, count: int, settled: bool, asked: bool
) -> ClassMap | None:
    """The class map of the given kind; None where ``count`` classes do not allow that kind.

    More classes than ids are accepted from COCO's detectors only, or on request.
    """
    number = len(categories.ids)
    known = dict(zip(*categories, strict=True))
    if kind == "order":
        if count not in (number, number + 1) and (settled or count > number):
            return None
        ids = categories.ids
        how = "class k is the k-th category in order of id"
        how += ", the last class is none" if count == number + 1 else ""
    elif kind == "ids":
        wanted = max(categories.ids) + 1
        if (
            min(categories.ids) < 0
            or (count < wanted and settled)
            or (count > wanted and count != COCO_IDS and not asked)
        ):
            return None
        size = max(count, max(categories.ids) + 1)
        return ClassMap(
            tuple(range(size)),
            tuple(known.get(i, f"class {i}") for i in range(size)),
            "class k is category id k",
        )
    else:
        if count != number + 1 and (settled or count > number + 1):
            return None
        ids = (-1, *categories.ids)
        how = "class 0 is none, class k the k-th category in order of id"
    extra = max(0, count - len(ids))
    ids = (*ids, *(-2 - index for index in range(extra)))
    return ClassMap(ids, tuple(known.get(i, "none") for i in ids), how)


def _padded(names: Sequence[str], count: int) -> tuple[str, ...]:
    return tuple(names[index] if index < len(names) else f"class {index}" for index in range(count))


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _by_name(
    categories: Categories, count: int, names: Sequence[str], path: str | Path
) -> ClassMap | None:
    """Maps each class to the category of the same name; None where the names in the file are mere
    numbers.
    """
    if count not in (len(names), len(names) + 1) or all(
        _plain(name) in (str(i), f"class{i}") for i, name in enumerate(names)
    ):
        return None
    wanted = {_plain(name): number for number, name in zip(*categories, strict=True)}
    if len(wanted) < len(categories.ids):
        return None  # two categories have the same name
    given = [_plain(name) for name in _padded(names, count)]
    missing = [name for name in categories.names if _plain(name) not in given]
    if not missing:
        # A class without a category gets a number below 0, which is no category.
        ids = tuple(wanted.get(name, -1 - index) for index, name in enumerate(given))
        known = dict(zip(*categories, strict=True))
        shown = tuple(
            known.get(number, name) for number, name in zip(ids, _padded(names, count), strict=True)
        )
        return ClassMap(ids, shown, "by the names in the file's metadata")
    listed = ", ".join(missing[:3])
    what = (
        f"the file's metadata names {len(names)} classes ({', '.join(names[:3])}), without "
        f"{len(missing)} of the data set"
    )
    hint = "give the model's own data set, or choose a mapping with --classes"
    raise InputError(f"{what} ({listed})", path, hint)
