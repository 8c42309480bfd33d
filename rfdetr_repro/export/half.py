"""Converts a float32 ONNX artifact to float16: reads the file, audits its range, and writes the
graph that :func:`.float16.to_half` returns.

    python -m rfdetr_repro.export.half MODEL.onnx --out MODEL-fp16.onnx \
        [--audit-images DIR] [--islands NAME ...]
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports below: the program loads them when it needs them
    from rfdetr_repro.spec.launch import Program

    Program("rfdetr_repro.export.half_command").run()

from collections.abc import Iterable, Sequence
from pathlib import Path

from rfdetr_repro.export.onnx_file import load
from rfdetr_repro.spec.errors import InputError

from .artifact import Artifact, write_artifact
from .float16 import to_half
from .fp16_audit import Array, audit, feeds_of

_NOISE = 2  # noise inputs for an audit without images


def half_artifact(
    artifact: Artifact, path: str | Path, *, islands: Iterable[str] = (), audited: str = "no"
) -> Artifact:
    """Writes the float16 form of a float32 artifact, exported or adopted, as ``path`` with its
    manifest.

    ``islands``: further nodes or operators to keep in float32. Raises :class:`InputError` for an
    artifact that is not float32 ONNX.
    """
    manifest = artifact.manifest
    if manifest.format != "onnx" or manifest.precision != "fp32":
        raise InputError(
            f"the artifact must be a float32 ONNX file, not {manifest.format} {manifest.precision}",
            artifact.path,
        )
    content, manifest = to_half(load(artifact.path), islands, path).file(manifest, audited)
    return write_artifact(path, content, manifest)


def audited_half(
    artifact: Artifact,
    path: str | Path,
    *,
    pictures: Path | None = None,
    feeds: Iterable[dict[str, Array]] = (),
    islands: Sequence[str] = (),
) -> Artifact:
    """Like :func:`half_artifact`, with the islands that a range audit finds.

    The audit runs the model on the images in the folder ``pictures``, or on ``feeds`` (inputs by
    name), or on noise.
    """
    feeds = list(feeds)
    found = audit(
        artifact.path, feeds or feeds_of(artifact.path, pictures, 8 if pictures else _NOISE)
    )
    seen = (
        f"{found.runs} {'pictures' if pictures or feeds else 'inputs of noise'}: "
        f"{len(found.islands)} nodes out of range"
    )
    return half_artifact(artifact, path, islands=[*islands, *found.islands], audited=seen)


def summary(artifact: Artifact) -> str:
    """One line with path, size, islands and the audit's result."""
    manifest = artifact.manifest
    islands = ", ".join(f"{len(names)} {reason}" for reason, names in manifest.islands.items())
    return (
        f"{artifact.path}  {manifest.size_bytes / 1e6:.1f} MB  fp16; float32 islands: {islands}; "
        f"audit: {manifest.build['audit']}"
    )
