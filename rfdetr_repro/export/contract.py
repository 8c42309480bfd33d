"""The checks that every backend applies to an artifact before a run: content, input and outputs,
each with an exact type.

A type is accepted as it is, widened without loss, or refused; bits are never reinterpreted as
another type (benchmark protocol section 2, weakness 10). This module does not import PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import open_input, sha256_bytes

from .artifact import Artifact, Manifest, TensorSpec

Array = np.ndarray[Any, Any]
UNKNOWN = -1  # a dimension that is unknown before a run

# Output -> (numpy dtype name, shape; B is the batch, another letter any number). Masks may be
# absent.
_OUTPUTS: dict[str, tuple[str, tuple[int | str, ...]]] = {
    "scores": ("float32", ("B", "K")),
    "labels": ("int64", ("B", "K")),
    "boxes": ("float32", ("B", "K", 4)),
    "masks": ("float32", ("B", "K", "h", "w")),
}
_WIDENED = {
    "float16": "float32",
    "int8": "int64",
    "int16": "int64",
    "int32": "int64",
    "uint8": "int64",
    "uint16": "int64",
}
_INPUTS = ("float32", "float16")


def content_of(artifact: Artifact, form: str) -> bytes:
    """The file's bytes, whose hash is checked; raises :class:`InputError` for a format other than
    ``form`` and for a changed file.
    """
    if artifact.manifest.format != form:
        given = artifact.manifest.format
        target = "torch" if artifact.manifest.format == "torch" else "onnxruntime"
        hint = (
            f"open the file with the backend {target}, or export the model again with --to {form}"
        )
        raise InputError(f"this backend runs {form} files, not {given}", artifact.path, hint)
    with open_input(artifact.path) as stream:
        content: bytes = stream.read()
    if (sha256_bytes(content), len(content)) != (artifact.sha256, artifact.manifest.size_bytes):
        raise InputError(
            "the file changed since it was loaded", artifact.path, "load the file again"
        )
    return content


def check_input(found: Sequence[TensorSpec], artifact: Artifact) -> TensorSpec:
    """The file's single image input; raises :class:`InputError` unless that input is the
    manifest's.
    """
    listed = ", ".join(f"{spec.name} {spec.dtype} {spec.shape}" for spec in found)
    named = artifact.manifest.inputs[0]
    if artifact.manifest.open_batch:
        found = [_of_one_image(spec) for spec in found]
    if tuple(found) != (named,):
        wanted = f"{named.name} {named.dtype} {named.shape}"
        raise InputError(
            f"the file's inputs are {listed or 'none'}, and its manifest states {wanted}",
            artifact.path,
            "export it again",
        )
    if named.dtype not in _INPUTS:
        raise InputError(
            f"images of the type {named.dtype} are not supported",
            artifact.path,
            f"export the model for {' or '.join(_INPUTS)}",
        )
    return named


def _of_one_image(spec: TensorSpec) -> TensorSpec:
    """The tensor of a file with an open batch, as its manifest states it."""
    if spec.shape[:1] != (UNKNOWN,):
        return replace(spec, shape=(0, *spec.shape[1:]))  # a fixed batch agrees with no manifest
    return replace(spec, shape=(1, *spec.shape[1:]))


def check_outputs(found: Sequence[TensorSpec], artifact: Artifact) -> None:
    """Raises :class:`InputError` unless names, types and known shapes are those of ranked
    detections, or widen to them without loss.
    """
    names = [spec.name for spec in found]
    if names not in (list(_OUTPUTS)[:3], list(_OUTPUTS)):
        decoded = artifact.manifest.contract == "decoded"
        hint = (
            "export it again"
            if decoded
            else "measure a file that was exported with the decoded contract"
        )
        raise InputError(f"outputs {names} are not ranked detections", artifact.path, hint)
    stated = [spec.name for spec in artifact.manifest.outputs]
    if sorted(stated) != sorted(names):
        message = (
            f"the manifest states the outputs {', '.join(stated)}, and the file has "
            f"{', '.join(names)}"
        )
        raise InputError(message, artifact.path, "export the model again")
    for spec in found:
        dtype, named = _OUTPUTS[spec.name]
        shape = (artifact.manifest.images_per_run, *named[1:])
        if dtype not in (spec.dtype, _WIDENED.get(spec.dtype)):
            what = (
                f"the output {spec.name} is {spec.dtype}, which cannot become {dtype} without loss"
            )
            raise InputError(what, artifact.path, f"export the output as {dtype}")
        sizes = zip(spec.shape, shape, strict=False)
        fixed = artifact.manifest.open_batch and spec.shape[:1] not in ((1,), (UNKNOWN,))
        if (
            fixed
            or len(spec.shape) != len(shape)
            or any(isinstance(want, int) and size not in (want, UNKNOWN) for size, want in sizes)
        ):
            wanted = f"({', '.join(map(str, shape))})"
            raise InputError(
                f"the output {spec.name} has the shape {spec.shape}, not {wanted}",
                artifact.path,
                "export it again",
            )


def check_images(images: Array, manifest: Manifest) -> Array:
    """``images``, float32 (B, 3, H, W) with the manifest's batch, height and width, in the file's
    input type.

    Raises :class:`InputError` for other shapes and types, and for no image.
    """
    spec = manifest.inputs[0]
    shape = images.shape
    if manifest.open_batch and images.ndim == 4 and shape[0] >= 1:
        shape = (1, *shape[1:])
    if shape != spec.shape or images.dtype != np.float32:
        sides = ", ".join(map(str, spec.shape[1:]))
        wanted = f"float32 (any, {sides})" if manifest.open_batch else f"float32 {spec.shape}"
        given = f"{images.dtype} {images.shape}"
        raise InputError(
            f"the artifact needs images {wanted}, not {given}",
            manifest.model.name,
            "resize the image",
        )
    return np.ascontiguousarray(images, dtype=spec.dtype)


def exact(values: Sequence[Array]) -> list[Array]:
    """The arrays, in the order scores, labels, boxes, masks, widened to the types of ranked
    detections.
    """
    return [
        array.astype(_OUTPUTS[name][0], copy=False)
        for name, array in zip(_OUTPUTS, values, strict=False)
    ]
