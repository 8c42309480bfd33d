"""Raw samples of a latency with their builds, blocks and marks, stored as ``samples/SHA256.npz`` in
the folder of the store.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import read_input, sha256_bytes, write_atomic

Array = np.ndarray[Any, Any]
BLOCK = 8  # samples between two looks at the stop rule, and between two models
# marks: taken while the GPU throttled; throttled and repeated after a rest
THROTTLED = 1
SET_ASIDE = 2
_UNMARKED: Array = np.zeros(0, np.int64)


class Series(NamedTuple):
    """Samples in the order in which they were taken, build by build."""

    ms: Array  # float64 (n,) of float32 numbers, which is the stored precision
    build: Array  # int64 (n,)
    block: Array  # int64 (n,) round of the interleaved measurement
    mark: Array = _UNMARKED  # int64 (n,): 0, THROTTLED or SET_ASIDE; empty: all 0

    @classmethod
    def of(cls, ms: Array) -> Series:
        """Samples of one build, in blocks of BLOCK."""
        ms = np.asarray(ms, dtype=np.float64)
        return cls(ms, np.zeros(len(ms), np.int64), np.arange(len(ms)) // BLOCK)

    @classmethod
    def pooled(cls, parts: Sequence[Series]) -> Series:
        """One series of several builds, numbered in order."""
        builds = np.repeat(np.arange(len(parts)), [len(part.ms) for part in parts])
        mark = np.concatenate(
            [part.mark if len(part.mark) else np.zeros(len(part.ms), np.int64) for part in parts]
        )
        ms, block = (np.concatenate([part[index] for part in parts]) for index in (0, 2))
        return cls(ms, builds, block, mark if mark.any() else _UNMARKED)

    @property
    def num_marked(self) -> int:
        """Number of samples that were taken while the GPU throttled."""
        return int((self.mark > 0).sum())

    @property
    def counted(self) -> Series:
        """The samples that enter medians and intervals: all except those set aside."""
        if not (self.mark == SET_ASIDE).any():
            return self
        kept = self.mark != SET_ASIDE
        return Series(self.ms[kept], self.build[kept], self.block[kept], self.mark[kept])

    @property
    def layout(self) -> tuple[tuple[int, int], ...]:
        """The sorted (build, block) pairs of the samples."""
        return tuple(sorted({*zip(self.build.tolist(), self.block.tolist(), strict=True)}))


def as_stored(ms: Array) -> Array:
    """The samples, float64 (n,), as they are read back: rounded to float32, seven digits."""
    return np.asarray(ms, dtype=np.float32).astype(np.float64)


def save_samples(folder: Path, series: Series) -> str:
    """Writes ``samples/SHA256.npz`` in ``folder``: milliseconds as float32, builds, blocks, marks.

    Returns the SHA-256.
    """
    content = io.BytesIO()
    arrays = {
        "ms": np.asarray(series.ms, dtype=np.float32),
        "build": _small(series.build),
        "block": _small(series.block),
    }
    if series.num_marked:
        arrays["mark"] = _small(series.mark)
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
    digest = sha256_bytes(content.getvalue())
    write_atomic(folder / "samples" / f"{digest}.npz", content.getvalue())
    return digest


def load_samples(folder: Path, sha256: str) -> Series:
    """The samples that :func:`save_samples` wrote, or a .npy file of older versions. Raises
    :class:`InputError` for anything else.

    Older files are float64 (n, 3) of milliseconds, build and block, or float64 (n,) of one build.
    """
    path = folder / "samples" / f"{sha256}.npz"
    if not path.is_file() and path.with_suffix(".npy").is_file():
        path = path.with_suffix(".npy")
    content = read_input(path)
    if sha256_bytes(content) != sha256:
        raise InputError(
            "the samples are not the samples that the Record names", path, "measure again"
        )
    try:
        found = np.load(io.BytesIO(content), allow_pickle=False)
        values = found if isinstance(found, np.ndarray) else dict(found.items())
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"not an array file ({error})", path, "measure again") from error
    return _old(values, path) if isinstance(values, np.ndarray) else _new(values, path)


def _small(numbers: Array) -> Array:
    """The numbers in the smallest type that holds them."""
    most = int(numbers.max(initial=0))
    return np.asarray(
        numbers, dtype=np.uint8 if most < 1 << 8 else np.uint16 if most < 1 << 16 else np.uint32
    )


def _new(arrays: dict[str, Array], path: Path) -> Series:
    kinds = {"ms": "f", "build": "u", "block": "u", "mark": "u"}
    missing = {"ms", "build", "block"} - arrays.keys()
    wrong = [
        name
        for name, array in arrays.items()
        if array.ndim != 1 or array.dtype.kind != kinds.get(name)
    ]
    if (
        missing
        or wrong
        or len({len(array) for array in arrays.values()}) > 1
        or not len(arrays["ms"])
    ):
        shapes = ", ".join(f"{name} {array.dtype} {array.shape}" for name, array in arrays.items())
        raise InputError(f"samples of {shapes}", path, "measure again")
    _check_times(arrays["ms"], path)
    numbers = [arrays.get(name, _UNMARKED).astype(np.int64) for name in ("build", "block", "mark")]
    return Series(arrays["ms"].astype(np.float64), *numbers)


def _check_times(ms: Array, path: Path) -> None:
    if not (np.isfinite(ms).all() and (ms >= 0).all()):
        raise InputError("samples that are not times", path, "measure again")


def _old(values: Array, path: Path) -> Series:
    if (
        values.dtype != np.float64
        or not len(values)
        or values.ndim > 2
        or (values.ndim == 2 and values.shape[1] != 3)
    ):
        raise InputError(f"samples of {values.dtype} {values.shape}", path, "measure again")
    _check_times(values if values.ndim == 1 else values[:, 0], path)
    if values.ndim == 1:
        return Series.of(values)
    return Series(values[:, 0], *values[:, 1:].T.astype(np.int64))
