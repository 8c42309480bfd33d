"""What every backend demands of an artifact before it runs: its bytes, its input and its outputs,
each of an exact type.

A type is taken as it is, widened without loss, or refused; bits are never read as another type
(benchmark protocol section 2, weakness 10). No torch here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import open_input, sha256_bytes

from .artifact import Artifact, Manifest, TensorSpec

Array = np.ndarray[Any, Any]
UNKNOWN = -1  # a dimension that a runtime cannot tell before it runs

# Output -> (numpy dtype name, shape; a letter is any number). Masks may be absent.
_OUTPUTS: dict[str, tuple[str, tuple[int | str, ...]]] = {
    "scores": ("float32", (1, "K")),
    "labels": ("int64", (1, "K")),
    "boxes": ("float32", (1, "K", 4)),
    "masks": ("float32", (1, "K", "h", "w")),
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
    """The file's bytes, hashed as they were read; another format than ``form``, or a changed file:
    :class:`InputError`.
    """
    if artifact.manifest.format != form:
        given = artifact.manifest.format
        target = "torch" if artifact.manifest.format == "torch" else "onnxruntime"
        hint = f"open it with the backend {target}, or export it again with --to {form}"
        raise InputError(f"this backend runs {form} files, not {given}", artifact.path, hint)
    with open_input(artifact.path) as stream:
        content: bytes = stream.read()
    if (sha256_bytes(content), len(content)) != (artifact.sha256, artifact.manifest.size_bytes):
        raise InputError("the file changed since it was loaded", artifact.path, "load it again")
    return content


def check_input(found: Sequence[TensorSpec], artifact: Artifact) -> TensorSpec:
    """The one image input, as the file really has it; it must be the manifest's."""
    listed = ", ".join(f"{spec.name} {spec.dtype} {spec.shape}" for spec in found)
    named = artifact.manifest.inputs[0]
    if tuple(found) != (named,):
        wanted = f"{named.name} {named.dtype} {named.shape}"
        raise InputError(
            f"the file takes {listed or 'nothing'}, its manifest says {wanted}",
            artifact.path,
            "export it again",
        )
    if named.dtype not in _INPUTS:
        raise InputError(
            f"images of type {named.dtype} are not known",
            artifact.path,
            f"export it for {' or '.join(_INPUTS)}",
        )
    return named


def check_outputs(found: Sequence[TensorSpec], artifact: Artifact) -> None:
    """Names, types and (where known) shapes must be those of ranked detections, or widen to them
    without loss.
    """
    names = [spec.name for spec in found]
    if names not in (list(_OUTPUTS)[:3], list(_OUTPUTS)):
        decoded = artifact.manifest.contract == "decoded"
        hint = "export it again" if decoded else "measure an export of the decoded contract"
        raise InputError(f"outputs {names} are not ranked detections", artifact.path, hint)
    stated = [spec.name for spec in artifact.manifest.outputs]
    if sorted(stated) != sorted(names):
        told = (
            f"the manifest tells of the outputs {', '.join(stated)}, the file has "
            f"{', '.join(names)}"
        )
        raise InputError(told, artifact.path, "export the model again")
    for spec in found:
        dtype, shape = _OUTPUTS[spec.name]
        if dtype not in (spec.dtype, _WIDENED.get(spec.dtype)):
            what = f"output {spec.name} is {spec.dtype}, which does not become {dtype} without loss"
            raise InputError(what, artifact.path, f"export it as {dtype}")
        sizes = zip(spec.shape, shape, strict=False)
        if len(spec.shape) != len(shape) or any(
            isinstance(want, int) and size not in (want, UNKNOWN) for size, want in sizes
        ):
            wanted = f"({', '.join(map(str, shape))})"
            raise InputError(
                f"output {spec.name} has shape {spec.shape}, not {wanted}",
                artifact.path,
                "export it again",
            )


def check_images(images: Array, manifest: Manifest) -> Array:
    """images float32 (1, 3, H, W) as the manifest says, in the type the file takes.

    Anything else: :class:`InputError`.
    """
    spec = manifest.inputs[0]
    if images.shape != spec.shape or images.dtype != np.float32:
        wanted = f"float32 {spec.shape}"
        given = f"{images.dtype} {images.shape}"
        raise InputError(
            f"the artifact takes {wanted}, not {given}", manifest.model.name, "resize the image"
        )
    return np.ascontiguousarray(images, dtype=spec.dtype)


def exact(values: Sequence[Array]) -> list[Array]:
    """Arrays in the order scores, labels, boxes, masks, in the types of that contract."""
    return [
        array.astype(_OUTPUTS[name][0], copy=False)
        for name, array in zip(_OUTPUTS, values, strict=False)
    ]
