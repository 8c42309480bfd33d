"""From a float32 ONNX artifact to the INT8 artifact that passes a limit on the loss of AP.

First everything that can be INT8 becomes INT8, but for the products that move the detections most
and do at most 1 % of the work. If the file loses more AP than allowed, products that do 5, 10, 20
and 40 % of the work stay in float32, the most sensitive first. Every file is scored as it is
written: the bytes that pass are the bytes of the artifact.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime

from rfdetr_repro.export.artifact import Artifact, Manifest, write_artifact
from rfdetr_repro.export.trial import tried
from rfdetr_repro.records.record import Quantised
from rfdetr_repro.spec.errors import InputError, StatedFailure
from rfdetr_repro.spec.files import sha256_bytes
from rfdetr_repro.spec.metrics import decimals, percent
from rfdetr_repro.spec.protocol import AP_GATES
from rfdetr_repro.spec.unfinished import temporary_folder

from .audit import Audit, Progress, Switched, audit
from .calibration import Calibration
from .kernels import integer_kernels
from .products import Product, asked_for, prepared, products_of
from .quantizer import SETTINGS, Quantizer

log = logging.getLogger(__name__)

Array = np.ndarray[Any, Any]
Score = Callable[[Artifact], "Mapping[str, float]"]
FLOAT_SHARES = (0.01, 0.05, 0.1, 0.2, 0.4)  # parts of the work that may stay in float32, in turn
AUDIT_IMAGES = 4


@dataclass(frozen=True)
class Gate:
    """The limit that an INT8 file has to keep.

    ``score``: AP of an artifact by kind ("boxes", "masks"), fractions in 0..1; ``data``: what it is
    measured on, in words; ``points``: AP that may be lost, of each kind.
    """

    score: Score
    data: str
    points: float = AP_GATES["int8"]


@dataclass(frozen=True)
class Wishes:
    """``keep``: nodes or operators to keep in float32; ``threads``: of the runtime in the audit;
    ``progress`` wraps the sequence of audited products.
    """

    keep: tuple[str, ...] = ()
    threads: int = 2
    progress: Progress = iter


class _Tried(NamedTuple):
    """A file of one step: its content, its manifest, and the AP that it loses, in points."""

    content: bytes
    manifest: Manifest
    lost: float


def int8_artifact(
    artifact: Artifact,
    path: str | Path,
    calibration: Calibration,
    gate: Gate | None = None,
    wishes: Wishes = Wishes(),
) -> Artifact:
    """Writes the INT8 form of a float32 ONNX artifact, exported or adopted, as ``path`` with its
    manifest.

    ``gate``: None for a model with random weights, whose AP means nothing; such a model is not
    audited either. Raises :class:`InputError` for an artifact that is not float32 ONNX, for a
    model without a product that can become INT8, and as the runtime does;
    :class:`StatedFailure`, with nothing written, where no step passes the gate.
    """
    manifest = artifact.manifest
    if manifest.format != "onnx" or manifest.precision != "fp32" or manifest.contract != "decoded":
        raise InputError(
            f"the artifact must be a float32 ONNX file with decoded outputs, not "
            f"{manifest.format} {manifest.precision}, {manifest.contract}",
            artifact.path,
            "export the model in fp32 first",
        )
    work = _Work(artifact, calibration, wishes)
    if gate is None:
        (only,) = work.files((0.0,), None)
        return write_artifact(path, only.content, only.manifest)
    tries: list[_Tried] = []
    before = gate.score(artifact)
    for tried_file in work.files(FLOAT_SHARES, _Gated(gate, before)):
        tries.append(tried_file)
        if tried_file.lost <= gate.points + 1e-9:
            return write_artifact(path, tried_file.content, tried_file.manifest)
        log.info(
            f"INT8 with {_told(tried_file.manifest)} loses "
            f"{decimals(tried_file.lost, 2)} points of AP; more products stay in float32"
        )
    best = min(tries, key=lambda one: one.lost)
    raise StatedFailure(
        f"INT8 loses more AP than allowed, {decimals(gate.points, 2)} points on {gate.data}: the "
        f"nearest file loses {decimals(best.lost, 2)}, with {_told(best.manifest)} in INT8; "
        f"nothing was written: raise --ap-gate, or choose --precision fp16"
    )


def _told(manifest: Manifest) -> str:
    return "nothing" if manifest.quantised is None else manifest.quantised.told


class _Gated:
    """Scores a file against the float32 file."""

    def __init__(self, gate: Gate, before: Mapping[str, float]) -> None:
        self.gate = gate
        self.before = before

    def lost(self, artifact: Artifact) -> tuple[float, str]:
        """The largest loss of AP in points, and the APs in words."""
        after = self.gate.score(artifact)
        losses = {kind: 100 * (self.before[kind] - after[kind]) for kind in self.before}
        said = ", ".join(
            f"AP of {kind} {percent(self.before[kind], digits=2)} to "
            f"{percent(after[kind], digits=2)}"
            for kind in self.before
        )
        return max(losses.values()), f"{said} on {self.gate.data}, limit {self.gate.points:g}"


class _Work:
    """The quantizer of one artifact with everything that its files have in common."""

    def __init__(self, artifact: Artifact, calibration: Calibration, wishes: Wishes) -> None:
        self.artifact = artifact
        self.calibration = calibration
        self.wishes = wishes
        self.model = prepared(artifact.path)
        self.asked = asked_for(self.model, wishes.keep)
        self.products = products_of(self.model, artifact.path, artifact.manifest.images_per_run)
        self.candidates = [
            product
            for product in self.products
            if not product.why_float and product.name not in self.asked
        ]
        if not self.candidates:
            raise InputError(
                "the model has no matrix product or convolution that can become INT8",
                artifact.path,
                "choose --precision fp16 or fp32",
            )
        self.quantizer = Quantizer(self.model, artifact.path)

    def files(self, shares: Sequence[float], gated: _Gated | None) -> Iterator[_Tried]:
        """A file for every different choice of products, scored by ``gated``, if there is one."""
        manifest = self.artifact.manifest
        self.quantizer.calibrate(self.calibration.feeds(manifest))
        found = None if gated is None else self._audit()
        seen = set()
        for share in shares:
            kept = () if found is None else found.sensitive(self.products, share)
            chosen = tuple(one.name for one in self.candidates if one.name not in kept)
            if not chosen or chosen in seen:
                continue
            seen.add(chosen)
            yield self._file(chosen, kept, found, gated)

    def _audit(self) -> Audit:
        names = [product.name for product in self.candidates]
        switched = Switched(
            self.model,
            self.quantizer.quantised(names),
            self.candidates,
            self.artifact.path,
            self.wishes.threads,
        )
        feeds = list(self.calibration.feeds(self.artifact.manifest, AUDIT_IMAGES))
        return audit(switched, feeds, self.wishes.progress)

    def _file(
        self,
        chosen: Sequence[str],
        kept: Sequence[str],
        found: Audit | None,
        gated: _Gated | None,
    ) -> _Tried:
        content = self.quantizer.quantised(chosen).SerializeToString(deterministic=True)
        manifest = self._manifest(content, chosen, kept, found)
        with temporary_folder() as folder:
            written = tried(write_artifact(folder / "int8.onnx", content, manifest))
            lost, said = (0.0, "no: random weights") if gated is None else gated.lost(written)
        build = {**manifest.build, "gate": said}
        return _Tried(content, replace(manifest, build=build), lost)

    def _manifest(
        self, content: bytes, chosen: Sequence[str], kept: Sequence[str], found: Audit | None
    ) -> Manifest:
        before = self.artifact.manifest
        calibration = self.calibration
        audited = (
            "no: random weights"
            if found is None
            else f"{len(found.alone)} products on {found.images} images: {len(kept)} stay in "
            f"float32"
        )
        build = {
            **before.build,
            **SETTINGS,
            "fp32_sha256": before.sha256,
            "calibration": calibration.told,
            "audit": audited,
        }
        return replace(
            before,
            sha256=sha256_bytes(content),
            size_bytes=len(content),
            precision="int8",
            build=build,
            packages={**before.packages, "onnxruntime": onnxruntime.__version__},
            islands=self._islands(kept),
            census={"int8": len(chosen), "fp32": len(self.products) - len(chosen)},
            quantised=_census(self.products, set(chosen), content, calibration),
        )

    def _islands(self, kept: Sequence[str]) -> dict[str, tuple[str, ...]]:
        reasons: dict[str, list[str]] = {}
        for product in self.products:
            reason = product.why_float
            reason = reason or ("asked" if product.name in self.asked else "")
            reason = reason or ("sensitive" if product.name in kept else "")
            if reason:
                reasons.setdefault(reason, []).append(product.name)
        return {reason: tuple(names) for reason, names in sorted(reasons.items())}


def _census(
    products: Sequence[Product], chosen: set[str], content: bytes, calibration: Calibration
) -> Quantised:
    convolutions = [product for product in products if product.is_convolution]
    whole = sum(product.flops for product in products)
    return Quantised(
        products_int8=sum(
            product.name in chosen for product in products if not product.is_convolution
        ),
        products=len(products) - len(convolutions),
        convolutions_int8=sum(product.name in chosen for product in convolutions),
        convolutions=len(convolutions),
        flops_share=sum(product.flops for product in products if product.name in chosen)
        / max(whole, 1),
        calibration_sha256=calibration.sha256,
        calibration_images=len(calibration),
        kernels=integer_kernels(content),
    )


def summary(artifact: Artifact) -> str:
    """Two lines: path, size and what became INT8; the calibration, the audit and the gate."""
    manifest = artifact.manifest
    build = manifest.build
    return (
        f"{artifact.path}  {manifest.size_bytes / 1e6:.1f} MB  int8: {_told(manifest)}\n"
        f"calibration: {build['calibration']}; audit: {build['audit']}; gate: {build['gate']}"
    )
