"""Every baseline that is there: those of this package, and those that other packages register.

A package adds a baseline by an entry point of the group ``rfdetr_repro.baselines`` whose object is
a :class:`Baseline`. What is no baseline is left out with one line on standard error, and the error
for a name that is not known says so again. No torch here until a model is built.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import logging
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from rfdetr_repro.spec.errors import InputError, StatedFailure, nearest
from rfdetr_repro.spec.presets import PRESETS

from .baseline import Baseline, HasModule, Size

if TYPE_CHECKING:
    from torch import nn

GROUP = "rfdetr_repro.baselines"
HERE = "rfdetr_repro"
BUILT_IN = (
    "d_fine",
    "rt_detr",
    "rt_detr_v2",
    "deim_v2",
    "lw_detr",
    "rf_detr_transformers",
    "yolo_ultralytics",
    "yolo_end_to_end",
    "yolo_libre",
    "edge_crafter",
    "open_vocabulary",
)
HASHED = (".py", ".toml", ".json", ".yaml", ".csv")
ATTRIBUTES = {"name": str, "license": str, "weights": str, "suppression": bool, "torch_only": str}

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Entry(NamedTuple):
    """A model by name: a size and the baseline it is of.

    ``distribution`` has the baseline; ``version`` and ``fingerprint``, a hash over its programs,
    are empty for this package.
    """

    baseline: Baseline
    size: Size
    distribution: str = HERE
    version: str = ""
    fingerprint: str = ""

    @property
    def provider(self) -> str:
        """Distribution and version, as text."""
        return " ".join(filter(None, (self.distribution, self.version)))

    @property
    def is_plug_in(self) -> bool:
        """Whether another package registers the baseline."""
        return self.distribution != HERE


class Found(NamedTuple):
    """``entries``: by the name of the model. ``refused``: a line for each plug-in left out."""

    entries: dict[str, Entry]
    refused: tuple[str, ...]


def entries() -> dict[str, Entry]:
    """Every model of every baseline, by its name; the same dictionary each time."""
    return find().entries


def entry(name: str) -> Entry:
    """The model called ``name``; :class:`InputError` if there is none."""
    if name not in entries():
        raise unknown("baseline", name, entries())
    return entries()[name]


def unknown(kind: str, name: str, known: Collection[str]) -> InputError:
    """The error for a name that is none of ``known``; says which plug-ins were left out."""
    left_out = "".join(f" ({line})" for line in find().refused)
    near = nearest(name, known)
    hint = f"did you mean {near}? " if near else ""
    return InputError(
        f"unknown {kind} {name!r}{left_out}",
        hint=f"{hint}rfdetr-repro baselines lists them; choose one of {', '.join(known)}",
    )


def module(name: str, form: str = "deployed") -> nn.Module:
    """Images (B, 3, H, W) -> boxes, logits[, masks] of the model ``name``, as one of FORMS; under
    ``torch.device("meta")`` it costs nothing.
    """
    known = entry(name)
    baseline = known.baseline
    if not isinstance(baseline, HasModule):
        raise InputError(f"{name} is no PyTorch module here", hint="give its ONNX file")
    return guarded(known, lambda: baseline.module(known.size, form))


def guarded(known: Entry, call: Callable[[], T]) -> T:
    """What ``call`` returns; an error of somebody else's program is a :class:`StatedFailure` that
    names the program.
    """
    if not known.is_plug_in:
        return call()
    try:
        return call()
    except (InputError, StatedFailure):
        raise
    except Exception as error:
        told = " ".join(str(error).split())
        raise StatedFailure(
            f"{known.size.id} of {known.provider} failed: {type(error).__name__}: {told}"
        ) from error


@cache
def find() -> Found:
    """Looks for baselines once; ``find.cache_clear()`` makes the next call look again."""
    found: dict[str, Entry] = {}
    for name in BUILT_IN:
        baseline = importlib.import_module(f"{__package__}.{name}").BASELINE
        found |= {size.id: Entry(baseline, size) for size in baseline.sizes}
    refused = []
    for point in _entry_points():
        distribution, version = _provider(point)
        try:
            baseline = _loaded(point, found)
        except _Refused as error:
            provider = " ".join(filter(None, (distribution, version)))
            line = f"the baseline {point.name} of {provider} is left out: {error}"
            refused.append(line)
            _log.warning("%s", line)
            continue
        code = _fingerprint(point.module, version)
        found |= {
            size.id: Entry(baseline, size, distribution, version, code) for size in baseline.sizes
        }
    return Found(found, tuple(refused))


class _Refused(Exception):
    """A plug-in that is no baseline; says why."""


def _entry_points() -> Sequence[importlib.metadata.EntryPoint]:
    """In an order that does not depend on the order of installation."""
    points = importlib.metadata.entry_points(group=GROUP)
    return sorted(points, key=lambda point: (_provider(point), point.name))


def _provider(point: importlib.metadata.EntryPoint) -> tuple[str, str]:
    """Name and version of the distribution."""
    return (point.dist.name, point.dist.version) if point.dist else ("an unknown package", "")


def _loaded(point: importlib.metadata.EntryPoint, known: Mapping[str, Entry]) -> Baseline:
    try:
        baseline = point.load()
        _check(baseline, known)
    except _Refused:
        raise
    except (Exception, SystemExit) as error:  # whatever a stranger's module raises
        told = " ".join(str(error).split())
        raise _Refused(f"{point.value} raises {type(error).__name__}: {told}") from error
    checked: Baseline = baseline
    return checked


def _check(baseline: Any, known: Mapping[str, Entry]) -> None:
    """Raises :class:`_Refused` for what lacks a part of :class:`Baseline` or takes a name that
    exists.
    """
    if isinstance(baseline, type):
        raise _Refused(f"{baseline.__name__} is a class; register an instance")
    wanted = {*ATTRIBUTES, "sizes", "export"}
    if missing := sorted(name for name in wanted if not hasattr(baseline, name)):
        raise _Refused(f"it has no {', '.join(missing)}")
    for name, kind in ATTRIBUTES.items():
        if not isinstance(getattr(baseline, name), kind):
            raise _Refused(f"its {name} is no {kind.__name__}")
    if not callable(baseline.export):
        raise _Refused("its export cannot be called")
    sizes = baseline.sizes
    is_list = isinstance(sizes, Sequence) and len(sizes) > 0
    if not is_list or not all(isinstance(size, Size) for size in sizes):
        raise _Refused("its sizes are no list of rfdetr_repro.baselines.Size")
    if baseline.torch_only and not isinstance(baseline, HasModule):
        raise _Refused("it runs in PyTorch only and has no module")
    taken = {*known, *(f"rfdetr-{size}" for size in PRESETS)}
    for size in sizes:
        if size.id in taken:
            raise _Refused(f"there is a model called {size.id} already")
        taken.add(size.id)


def _fingerprint(module: str, version: str) -> str:
    """Hash over the version, the programs and the data files of the plug-in: artifacts are made
    anew when they change. Of other files, such as weights, names and sizes count.
    """
    digest = hashlib.sha256(version.encode())
    spec = importlib.util.find_spec(module.partition(".")[0])
    origin = None if spec is None else spec.origin
    if spec is None or origin is None or not Path(origin).is_file():
        return digest.hexdigest()
    folders = spec.submodule_search_locations
    files = sorted(Path(origin).parent.rglob("*")) if folders else [Path(origin)]
    for file in files:
        if file.is_file() and "__pycache__" not in file.parts:
            content = file.read_bytes() if file.suffix in HASHED else b"%d" % file.stat().st_size
            digest.update(file.name.encode() + b"\0" + content)
    return digest.hexdigest()


def __getattr__(name: str) -> Any:
    """The names that this module had until version 0.2."""
    homes = {"FORMS": "baseline", "SEED": "baseline", "OPSET": "exporting", "export": "exporting"}
    if name not in {*homes, "ROWS", "library_model"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"{__name__}.{name} goes with version 0.3", DeprecationWarning, stacklevel=2)
    if name == "ROWS":
        return {id: known.size for id, known in entries().items()}
    if name == "library_model":
        return _library_model
    return getattr(importlib.import_module(f"{__package__}.{homes[name]}"), name)


def _library_model(name: str, checkpoint: str | Path | None = None) -> Any:
    baseline: Any = entry(name).baseline
    return baseline.library_model(entry(name).size, checkpoint)
