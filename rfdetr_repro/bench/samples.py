"""Raw samples of a latency with their builds and blocks, kept as ``samples/SHA256.npy`` beside the store."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import InputError
from ..files import open_input, sha256_bytes, write_atomic

Array = np.ndarray[Any, Any]
BLOCK = 16  # samples between two looks at the stop rule, and between two models


class Series(NamedTuple):
    """Samples in the order in which they were taken, build by build."""

    ms: Array  # float64 (n,)
    build: Array  # int64 (n,)
    block: Array  # int64 (n,) round of the interleaved measurement

    @classmethod
    def of(cls, ms: Array) -> Series:
        """Samples of one build, in blocks of BLOCK."""
        ms = np.asarray(ms, dtype=np.float64)
        return cls(ms, np.zeros(len(ms), np.int64), np.arange(len(ms)) // BLOCK)

    @classmethod
    def pooled(cls, parts: Sequence[Series]) -> Series:
        """One series of several builds, numbered in order."""
        builds = np.repeat(np.arange(len(parts)), [len(part.ms) for part in parts])
        return cls(np.concatenate([part.ms for part in parts]), builds, np.concatenate([part.block for part in parts]))

    @property
    def layout(self) -> tuple[tuple[int, int], ...]:
        """The (build, block) pairs there are."""
        return tuple(sorted({*zip(self.build.tolist(), self.block.tolist(), strict=True)}))


def save_samples(folder: Path, series: Series) -> str:
    """Writes float64 (n, 3), milliseconds, build, block, to ``samples/SHA256.npy`` in ``folder``; returns the SHA-256."""
    content = io.BytesIO()
    np.save(content, np.stack([np.asarray(part, dtype=np.float64) for part in series], axis=1), allow_pickle=False)
    digest = sha256_bytes(content.getvalue())
    write_atomic(folder / "samples" / f"{digest}.npy", content.getvalue())
    return digest


def load_samples(folder: Path, sha256: str) -> Series:
    """What :func:`save_samples` wrote, or float64 (n,) of one build, as in older files; else :class:`InputError`."""
    path = folder / "samples" / f"{sha256}.npy"
    with open_input(path) as stream:
        content = stream.read()
    if sha256_bytes(content) != sha256:
        raise InputError("the samples are not those the Record names", path, "measure again")
    try:
        values = np.load(io.BytesIO(content), allow_pickle=False)
    except ValueError as error:
        raise InputError(f"not an array file ({error})", path, "measure again") from error
    if values.dtype != np.float64 or not len(values) or values.ndim > 2 or values.ndim == 2 and values.shape[1] != 3:
        raise InputError(f"samples of {values.dtype} {values.shape}", path, "measure again")
    if values.ndim == 1:
        return Series.of(values)
    return Series(values[:, 0], *values[:, 1:].T.astype(np.int64))
