"""Float32 ONNX artifact -> float16 artifact: reads the file, looks at its range, and writes what
:func:`.float16.to_half` makes of its graph.

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

_NOISE = 2  # inputs of noise for the audit when there are no pictures


def half_artifact(
    artifact: Artifact, path: str | Path, *, islands: Iterable[str] = (), audited: str = "no"
) -> Artifact:
    """Writes the float16 form of a float32 artifact, ours or adopted, as ``path`` with its manifest
    beside it.
    """
    manifest = artifact.manifest
    if manifest.format != "onnx" or manifest.precision != "fp32":
        raise InputError(
            f"a float32 ONNX file is needed, not {manifest.format} {manifest.precision}",
            artifact.path,
        )
    content, told = to_half(load(artifact.path), islands, path).file(manifest, audited)
    return write_artifact(path, content, told)


def audited_half(
    artifact: Artifact,
    path: str | Path,
    *,
    pictures: Path | None = None,
    feeds: Iterable[dict[str, Array]] = (),
    islands: Sequence[str] = (),
) -> Artifact:
    """:func:`half_artifact` with the islands that the range audit finds on ``pictures`` (a folder),
    on ``feeds`` (ready inputs of pictures, by name), or without either on noise.
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
    """One line: where, how large, which islands, what the audit saw."""
    told = artifact.manifest
    islands = ", ".join(f"{len(names)} {reason}" for reason, names in told.islands.items())
    return (
        f"{artifact.path}  {told.size_bytes / 1e6:.1f} MB  fp16; float32 islands: {islands}; "
        f"audit: {told.build['audit']}"
    )
