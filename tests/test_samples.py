"""Raw samples: written, read, and older files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rfdetr_repro.bench.samples import Series, load_samples, save_samples
from rfdetr_repro.errors import InputError
from rfdetr_repro.files import sha256_file

SERIES = Series.pooled([Series.of(np.arange(20.0)), Series.of(np.arange(5.0))])


def test_builds_and_blocks_come_back(tmp_path: Path) -> None:
    digest = save_samples(tmp_path, SERIES)
    found = load_samples(tmp_path, digest)
    assert all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(found, SERIES, strict=True))
    assert found.layout == ((0, 0), (0, 1), (1, 0))
    assert sha256_file(tmp_path / "samples" / f"{digest}.npy") == digest


def stored(folder: Path, content: bytes) -> str:
    from rfdetr_repro.files import sha256_bytes

    (folder / "samples").mkdir(exist_ok=True)
    (folder / "samples" / f"{sha256_bytes(content)}.npy").write_bytes(content)
    return sha256_bytes(content)


def array_bytes(values: np.ndarray, folder: Path) -> bytes:
    np.save(folder / "array.npy", values)
    return (folder / "array.npy").read_bytes()


def test_older_files_hold_one_build(tmp_path: Path) -> None:
    found = load_samples(tmp_path, stored(tmp_path, array_bytes(np.arange(40.0), tmp_path)))
    assert found.layout == ((0, 0), (0, 1), (0, 2)) and found.ms.tolist() == list(range(40))


def test_what_is_no_samples_is_refused(tmp_path: Path) -> None:
    digest = save_samples(tmp_path, SERIES)
    (tmp_path / "samples" / f"{digest}.npy").write_bytes(b"other")
    for wrong, told in (
        (digest, "not those the Record names"),
        ("0" * 64, "cannot read"),
        (stored(tmp_path, b"no array"), "not an array file"),
        (stored(tmp_path, array_bytes(np.array([{}]), tmp_path)), "not an array file"),  # a pickle inside
        (stored(tmp_path, array_bytes(np.arange(4), tmp_path)), "samples of int64"),
        (stored(tmp_path, array_bytes(np.zeros((4, 2)), tmp_path)), r"samples of float64 \(4, 2\)"),
    ):
        with pytest.raises(InputError, match=told):
            load_samples(tmp_path, wrong)
