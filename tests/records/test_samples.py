"""Raw samples: written, read, and older files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from rfdetr_repro.records.samples import (
    SET_ASIDE,
    THROTTLED,
    Series,
    as_stored,
    load_samples,
    save_samples,
)
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import sha256_file

SERIES = Series.pooled([Series.of(np.arange(20.0)), Series.of(np.arange(5.0))])


def test_builds_and_blocks_come_back(tmp_path: Path) -> None:
    digest = save_samples(tmp_path, SERIES)
    found = load_samples(tmp_path, digest)
    assert all(
        np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(found, SERIES, strict=True)
    )
    assert found.layout == ((0, 0), (0, 1), (0, 2), (1, 0))
    assert sha256_file(tmp_path / "samples" / f"{digest}.npz") == digest


def test_marks_come_back_and_samples_set_aside_do_not_count(tmp_path: Path) -> None:
    marks = np.repeat([0, THROTTLED, SET_ASIDE], 8)
    parts = [SERIES, Series(np.arange(24.0), np.zeros(24, np.int64), np.arange(24) // 8, marks)]
    found = load_samples(tmp_path, save_samples(tmp_path, Series.pooled(parts)))
    assert found.mark.tolist() == [0] * len(SERIES.ms) + marks.tolist() and found.num_marked == 16
    assert len(found.counted.ms) == len(found.ms) - 8 and SET_ASIDE not in found.counted.mark
    assert SERIES.counted is SERIES and SERIES.num_marked == 0


def test_samples_are_small_and_come_back_to_seven_digits(tmp_path: Path) -> None:
    ms = np.random.default_rng(0).normal(5.0, 0.1, 768)
    digest = save_samples(tmp_path, Series.of(ms))
    assert (tmp_path / "samples" / f"{digest}.npz").stat().st_size < 5 * len(ms)
    found = load_samples(tmp_path, digest).ms
    assert np.array_equal(found, as_stored(ms)) and np.abs(found / ms - 1).max() < 1e-7


def stored(folder: Path, content: bytes) -> str:
    from rfdetr_repro.spec.files import sha256_bytes

    (folder / "samples").mkdir(exist_ok=True)
    (folder / "samples" / f"{sha256_bytes(content)}.npy").write_bytes(content)
    return sha256_bytes(content)


def zipped(**arrays: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return content.getvalue()


def array_bytes(values: np.ndarray, folder: Path) -> bytes:
    np.save(folder / "array.npy", values)
    return (folder / "array.npy").read_bytes()


def test_older_files_hold_one_build(tmp_path: Path) -> None:
    found = load_samples(tmp_path, stored(tmp_path, array_bytes(np.arange(40.0), tmp_path)))
    assert found.layout == tuple((0, block) for block in range(5)) and found.ms.tolist() == list(
        range(40)
    )


def test_what_is_no_samples_is_refused(tmp_path: Path) -> None:
    digest = save_samples(tmp_path, SERIES)
    (tmp_path / "samples" / f"{digest}.npz").write_bytes(b"other")
    for wrong, told in (
        (digest, "not the samples that the Record names"),
        ("0" * 64, "cannot read"),
        (stored(tmp_path, b"no array"), "not an array file"),
        # a pickle inside
        (stored(tmp_path, array_bytes(np.array([{}]), tmp_path)), "not an array file"),
        (stored(tmp_path, array_bytes(np.arange(4), tmp_path)), "samples of int64"),
        (stored(tmp_path, array_bytes(np.zeros((4, 2)), tmp_path)), r"samples of float64 \(4, 2\)"),
        (stored(tmp_path, zipped(ms=np.ones(3, np.float32))), r"samples of ms float32 \(3,\)"),
        (
            stored(
                tmp_path,
                zipped(
                    ms=np.ones(3, np.float32),
                    build=np.zeros(3, np.uint8),
                    block=np.zeros(2, np.uint8),
                ),
            ),
            "samples of",
        ),
        (
            stored(
                tmp_path,
                zipped(
                    ms=np.array([{}] * 3), build=np.zeros(3, np.uint8), block=np.zeros(3, np.uint8)
                ),
            ),
            "not an array",
        ),
        (stored(tmp_path, zipped(ms=np.ones(3, np.float32))[:-30]), "not an array file"),  # torn
    ):
        with pytest.raises(InputError, match=told):
            load_samples(tmp_path, wrong)
