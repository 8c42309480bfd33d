"""Check that a TensorRT engine computes what its ONNX file computes.

Three fixed images go through the engine and through an exact runtime, which runs the same file on
the CPU. Detections are matched as in ``runtime/matching.py``. Where confidences are nearly equal,
as with random weights, rounding alone changes which queries a model selects; so the share of
detections that has to agree is measured against the file itself: the exact runtime also gets the
images with an error of the size of the engine's rounding, and the engine has to agree with it
nearly as well as it agrees with itself.

``export --to tensorrt`` checks an engine as soon as it is built, where the machine can run it, and
every opening of an engine checks it. A passed check is kept beside the engine, in
``ENGINE.agreement.json``, for this engine, GPU and rule. Without an exact runtime the agreement is
unknown, which is said each time.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rfdetr_repro.export.artifact import (
    Artifact,
    Manifest,
    load_artifact,
    manifest_path,
    write_artifact,
)
from rfdetr_repro.export.contract import content_of
from rfdetr_repro.export.plugin import needs_plugin
from rfdetr_repro.export.plugin_reference import with_standard_operators
from rfdetr_repro.spec.errors import InputError, StatedFailure, first_line
from rfdetr_repro.spec.files import read_json, sha256_bytes, write_atomic
from rfdetr_repro.spec.unfinished import temporary_folder

from .matching import differences, match
from .session import Array, Detections, OrtSession, Session
from .tensorrt import TrtSession

log = logging.getLogger(__name__)

UNKNOWN = "unknown"
SAME_OBJECT = 0.05  # of the image; boxes farther apart are not compared
LEAST_STEADY = 0.25  # of a file's detections; with fewer, the images decide nothing
_FAR = np.float32(1e9)  # in the place of numbers that are not finite
_SQUARES = 8  # along a side of the third image
_RULE = 1  # counts up when images or comparison change, so that older results are not taken


@dataclass(frozen=True)
class Allowed:
    """Largest differences of a detection that agrees, and the share of detections that must.

    ``rounding`` is the relative error of the pixels with which the exact runtime is compared with
    itself; ``share`` is a part of the share that agrees there.
    """

    box: float  # of a corner's coordinate, as part of the image
    score: float
    mask_logit: float  # relative to the largest logit of the image where that exceeds 1
    rounding: float
    share: float = 0.8


EXACT = Allowed(box=1e-3, score=1e-3, mask_logit=1e-2, rounding=2.0**-18)
# numbers of float16 and TF32 have 11 significant bits
HALF = Allowed(box=1e-2, score=1e-2, mask_logit=5e-2, rounding=2.0**-10)


@dataclass(frozen=True)
class Comparison:
    """What was found over all detections of the images; differences are of matched detections."""

    agreeing: float  # share of the detections
    steady: float  # share of the exact runtime's detections that the rounding leaves the same
    matched: float
    box: float
    score: float
    mask_logit: float
    finite: bool  # whether the engine's numbers are, where the exact runtime's are

    def __str__(self) -> str:
        if not self.finite:
            return "some of its numbers are not finite"
        if not self.matched:
            return f"no detection has a counterpart within {SAME_OBJECT:g} of the image"
        return (
            f"{self.agreeing:.1%} of detections agree, largest differences box {self.box:.2g}, "
            f"score {self.score:.2g}, mask logit {self.mask_logit:.2g}"
        )


def allowed_for(manifest: Manifest) -> Allowed:
    """The differences that an engine's precision explains; there is no engine of an INT8 file."""
    tf32 = manifest.build.get("tf32") != "False"  # an engine that does not say may use it
    return EXACT if manifest.precision == "fp32" and not tf32 else HALF


def check_engine(
    session: Session,
    engine: Artifact,
    source: Artifact | None = None,
    *,
    gpu: str,
    threads: int = 2,
) -> str:
    """The runtime that ``session``, which runs ``engine`` on ``gpu``, agrees with ("onnxruntime"),
    or UNKNOWN, with a warning that says why.

    ``source``: the ONNX file of the engine; None: it is looked for in the engine's folder.
    ``threads``: of the exact runtime. A check that this engine has passed before is not repeated.
    Raises :class:`EngineDisagrees` where the engine disagrees.
    """
    allowed = allowed_for(engine.manifest)
    kept = _Kept(engine, gpu, allowed)
    if (known := kept.passed()) is not None:
        return known
    name = "onnxruntime"
    try:
        exact = _exact(source or source_of(engine), threads)
    except InputError as error:
        return _unknown(engine, str(error))
    try:
        found = compare(session, exact, allowed)
    except _NotRunError as error:
        return _unknown(engine, f"ONNX Runtime does not run it ({first_line(error)})")
    if found.steady < LEAST_STEADY:
        return _unknown(
            engine,
            f"rounding alone changes {1 - found.steady:.0%} of the detections of its ONNX file",
        )
    if not found.finite or not found.agreeing >= allowed.share * found.steady:
        raise EngineDisagrees(
            f"{engine.path}: the engine disagrees with its ONNX file on {name}: {found}, and "
            f"{allowed.share * found.steady:.1%} must agree; {_advice(engine.manifest)}"
        )
    log.info(f"{engine.path} agrees with its ONNX file on {name}: {found}")
    kept.keep(name, found)
    return name


class EngineDisagrees(StatedFailure):
    """The outputs of an engine are not those of its ONNX file."""


def checked_when_built(engine: Artifact, source: Artifact, backend: str) -> str:
    """Whether the outputs of an engine that was just built are those of its ONNX file ``source``,
    in words; on a machine without a GPU that runs the engine, that this is unknown, and why.
    ``backend``: the runtime of the engine, "tensorrt" or "tensorrt-rtx".

    Removes an engine that disagrees, and raises :class:`EngineDisagrees`.
    """
    unknown = "whether its outputs are those of the ONNX file is unknown"
    try:
        session = TrtSession(engine, backend, cuda_graph=False)
    except InputError as error:
        return f"{unknown} until it is first opened: {first_line(error)}"
    try:
        found = check_engine(session, engine, source, gpu=str(session.device.gpu))
    except EngineDisagrees as error:
        for path in (engine.path, manifest_path(engine.path)):
            path.unlink(missing_ok=True)
        raise EngineDisagrees(f"{error}; the engine has been removed") from error
    finally:
        session.close()
    return unknown if found == UNKNOWN else f"its outputs are those of the ONNX file on {found}"


class _NotRunError(Exception):
    """The exact runtime failed on an image."""


def _exact(source: Artifact, threads: int) -> Callable[[Array], Detections]:
    """``source`` on ONNX Runtime, with the plugin's node as standard operators; raises
    :class:`InputError` for a file that it cannot load.
    """
    if needs_plugin(source.manifest):
        with temporary_folder() as folder:  # the session keeps what it has read
            session = OrtSession(_written_out(source, folder), threads)
    else:
        session = OrtSession(source, threads)

    def run(images: Array) -> Detections:
        try:
            return session.run(images)
        except Exception as error:  # ONNX Runtime's exception types share no public base class
            raise _NotRunError(str(error)) from error

    return run


def _written_out(source: Artifact, folder: Path) -> Artifact:
    try:
        content = with_standard_operators(content_of(source, "onnx"))
    except ValueError as error:
        raise InputError(str(error), source.path) from error
    digest = sha256_bytes(content)
    manifest = replace(source.manifest, sha256=digest, size_bytes=len(content))
    return write_artifact(folder / source.path.name, content, manifest)


def source_of(engine: Artifact) -> Artifact:
    """The ONNX file in the folder of ``engine`` that it was built from; raises
    :class:`InputError` where it is not there or was changed.
    """
    path = engine.path
    likely = [path.with_name(f"{path.stem.rpartition('-')[0]}.onnx"), path.with_suffix(".onnx")]
    for place in (*likely, *sorted(path.parent.glob("*.onnx"))):
        if place.is_file() and _stated_hash(place) == engine.manifest.onnx_sha256:
            return load_artifact(place)
    raise InputError(
        "the ONNX file that the engine was built from is not in its folder",
        path.parent,
        "put the file and its manifest there",
    )


def _stated_hash(path: Path) -> object:
    try:
        fields = read_json(manifest_path(path))
    except InputError:
        return None  # a file of somebody else
    return fields.get("sha256") if isinstance(fields, dict) else None


def images_for(manifest: Manifest) -> Array:
    """Three fixed images, float32 (3, 3, H, W) in 0..1: a ramp, noise, and coloured squares."""
    height, width = manifest.input_hw
    shape = (3, height, width)
    random = np.random.default_rng(0)
    ramp = np.linspace(0, 1, math.prod(shape), dtype=np.float32).reshape(shape)
    noise = random.random(shape, dtype=np.float32)
    squares = random.random((3, _SQUARES, _SQUARES), dtype=np.float32)
    rows = np.arange(height) * _SQUARES // height
    columns = np.arange(width) * _SQUARES // width
    return np.stack([ramp, noise, squares[:, rows][:, :, columns]])


def compare(session: Session, exact: Callable[[Array], Detections], allowed: Allowed) -> Comparison:
    """Compares ``session`` with ``exact`` on :func:`images_for`, in the batches that its engine
    takes; with any number of images at once, in batches of 1 and of the most that the engine takes,
    at most 3. ``exact``: float32 (N, 3, H, W) in 0..1 -> detections. Raises what either runtime
    raises.
    """
    random = np.random.default_rng(1)
    parts: list[Array] = []  # largest differences of matched detections
    agreeing = steady = total = 0
    finite = True
    for images in _batches(session.manifest):
        error = 1 + allowed.rounding * random.uniform(-1, 1, images.shape)
        expected, found = exact(images), session.run(images)
        rounded = exact((images * error).clip(0, 1).astype(np.float32))
        finite &= _is_finite(found) or not _is_finite(expected)
        expected, found, rounded = _finite(expected), _finite(found), _finite(rounded)
        for index in range(len(images)):
            wanted = expected.of_image(index)
            apart = _differences(wanted, found.of_image(index))
            parts.append(apart)
            agreeing += _agreeing(apart, allowed)
            steady += _agreeing(_differences(wanted, rounded.of_image(index)), allowed)
            total += wanted.scores.shape[1]
    every = np.concatenate(parts)
    box, score, mask = every.max(axis=0) if len(every) else (np.inf, np.inf, np.inf)
    return Comparison(
        agreeing=agreeing / total,
        steady=steady / total,
        matched=len(every) / total,
        box=float(box),
        score=float(score),
        mask_logit=float(mask),
        finite=finite,
    )


def _batches(manifest: Manifest) -> Iterator[Array]:
    images = images_for(manifest)
    sizes = [manifest.images_per_run]
    if manifest.open_batch:  # ends with 1, for which the session was opened
        most = int(manifest.build["batches"].split(",")[-1])
        sizes = sorted({1, min(len(images), most)}, reverse=True)
    for size in sizes:
        for start in range(0, max(len(images), size), size):
            yield images[np.arange(start, start + size) % len(images)]


def _differences(expected: Detections, found: Detections) -> Array:
    return differences(expected, found, match(expected, found, SAME_OBJECT))


def _agreeing(apart: Array, allowed: Allowed) -> int:
    limits = (allowed.box, allowed.score, allowed.mask_logit)
    return int((apart <= limits).all(axis=1).sum())


def _is_finite(found: Detections) -> bool:
    parts = (found.scores, found.boxes_xyxy, found.masks)
    return all(part is None or bool(np.isfinite(part).all()) for part in parts)


def _finite(found: Detections) -> Detections:
    """``found`` with :data:`_FAR` in place of numbers that are not finite, which the assignment of
    detections refuses.
    """

    def replaced(values: Array) -> Array:
        return np.nan_to_num(values, nan=_FAR, posinf=_FAR, neginf=-_FAR)

    masks = None if found.masks is None else replaced(found.masks)
    return Detections(replaced(found.scores), found.labels, replaced(found.boxes_xyxy), masks)


def _unknown(engine: Artifact, why: str) -> str:
    log.warning(
        f"{engine.path}: whether the engine computes what its ONNX file computes is unknown: {why}"
    )
    return UNKNOWN


def _advice(manifest: Manifest) -> str:
    offered = manifest.format == "tensorrt" and not needs_plugin(manifest)
    ways = ["export the model with --attention plugin"] if offered else []
    ways.append("use another version of TensorRT")
    ways += [] if manifest.precision == "fp32" else ["build from the fp32 file"]
    return ", or ".join(ways)


class _Kept:
    """The file that holds a passed check."""

    def __init__(self, engine: Artifact, gpu: str, allowed: Allowed) -> None:
        self._path = engine.path.with_name(f"{engine.path.name}.agreement.json")
        self._of: dict[str, Any] = {
            "engine": engine.sha256,
            "onnx": engine.manifest.onnx_sha256,
            "gpu": gpu,
            "allowed": asdict(allowed),
            "rule": _RULE,
        }

    def passed(self) -> str | None:
        """The runtime of a check that was passed by this engine on this GPU under this rule."""
        if not self._path.is_file():
            return None
        try:
            fields = read_json(self._path)
        except InputError:
            return None  # checked again
        if not isinstance(fields, dict) or not isinstance(fields.get("runtime"), str):
            return None
        same = all(fields.get(key) == value for key, value in self._of.items())
        return fields["runtime"] if same else None

    def keep(self, runtime: str, found: Comparison) -> None:
        """Writes the file. A folder that cannot be written to is logged, and the check is repeated
        at the next opening.
        """
        content = {**self._of, "runtime": runtime, "found": asdict(found)}
        try:
            write_atomic(self._path, json.dumps(content, indent=1, sort_keys=True) + "\n")
        except (InputError, OSError) as error:
            log.info(f"the check of the engine is not kept, and is repeated next time: {error}")
