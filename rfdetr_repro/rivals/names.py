"""What ``train-rival --model`` names: RF-DETR and its rivals, full-size and of pico width.

Full-size rivals are those of :mod:`rfdetr_repro.baselines` that are models of transformers. Those
of pico width are for CPUs: the method's own parts with few channels and layers (:mod:`.pico`).
DEIMv2 has small sizes of its authors. No torch here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from rfdetr_repro.baselines import catalog
from rfdetr_repro.baselines.baseline import Size
from rfdetr_repro.baselines.library import LibraryBaseline
from rfdetr_repro.spec.errors import InputError, nearest
from rfdetr_repro.spec.presets import PRESETS, Preset, preset

OURS = "rfdetr-"
# name of an RF-DETR that is trained here -> size
OUR_SIZES = {f"{OURS}{size}": size for size in ("pico", "paper-supernet", *PRESETS)}

PICO_HW = (128, 128)
PICO_QUERIES = 25
# families of detectors of transformers that have a loss there
TRAINED_FAMILIES = ("dfine", "lwdetr", "rtdetr", "rtdetrv2", "deimv2")
PICO_SIZES = {
    f"{family}-pico": Size(
        f"{family}-pico", family, name, "pico", "pico", hw=PICO_HW, normalise=normalise
    )
    for family, name, normalise in (
        ("dfine", "D-FINE", "none"),
        ("lwdetr", "LW-DETR", "imagenet"),
        ("rtdetr", "RT-DETR", "none"),
        ("rtdetrv2", "RT-DETRv2", "none"),
    )
}


@dataclass(frozen=True)
class Entrant:
    """A model that takes part in a comparison. ``size`` is None for an RF-DETR, whose ``preset`` is
    then given. ``weights``: file with the initial weights; None: random.
    """

    id: str
    size: Size | None = None
    preset: Preset | None = None
    weights: Path | None = None

    @property
    def is_ours(self) -> bool:
        """Whether this is an RF-DETR."""
        return self.size is None


@cache
def rival_sizes() -> dict[str, Size]:
    """Every rival that can be trained, by its name."""
    found = dict(PICO_SIZES)
    for name, known in catalog.entries().items():
        library = isinstance(known.baseline, LibraryBaseline)
        if library and known.size.family in TRAINED_FAMILIES and not known.is_plug_in:
            found[name] = known.size
    return found


def model_names() -> tuple[str, ...]:
    """Everything that ``--model`` may name."""
    return (*OUR_SIZES, *rival_sizes())


def entrant(name: str, weights: Path | None = None) -> Entrant:
    """The model called ``name``; the letter of a size (``lwdetr-t``) names the size, and a family
    alone (``deimv2``) its smallest full size. Raises :class:`InputError` for an unknown name.
    """
    known = _known(name)
    if known in OUR_SIZES:
        row = preset(OUR_SIZES[known])
        boxes = replace(row, model=replace(row.model, masks=False))
        return Entrant(known, preset=boxes, weights=weights)
    if known in rival_sizes():
        return Entrant(known, size=rival_sizes()[known], weights=weights)
    near = nearest(name, model_names())
    raise InputError(
        f"unknown model {name!r}",
        hint=f"{f'did you mean {near}? ' if near else ''}choose one of {', '.join(model_names())}",
    )


def _known(name: str) -> str:
    sizes = rival_sizes()
    if name in sizes or name in OUR_SIZES:
        return name
    letters = {f"{size.family}-{size.size}".lower(): id for id, size in reversed(sizes.items())}
    full = [id for id, size in sizes.items() if size.family == name and id not in PICO_SIZES]
    return letters.get(name.lower(), full[0] if full else name)
