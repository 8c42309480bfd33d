"""What is read of an ONNX file, and when."""

from __future__ import annotations

from pathlib import Path

import pytest

from rfdetr_repro.export import onnx_file
from rfdetr_repro.spec.errors import InputError


def test_a_file_beyond_the_limit_is_refused_before_it_takes_memory(tmp_path: Path) -> None:
    """The file states 1 TiB and takes no room on the disk."""
    path = tmp_path / "model.onnx"
    with open(path, "wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(InputError, match="more than 2 GB"):
        onnx_file.load(path)


def test_a_file_within_the_limit_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(bytes(300))
    monkeypatch.setattr(onnx_file, "LARGEST_BYTES", 300)
    with pytest.raises(InputError, match="not an ONNX model"):
        onnx_file.load(path)
    monkeypatch.setattr(onnx_file, "LARGEST_BYTES", 299)
    with pytest.raises(InputError, match="more than 2 GB"):
        onnx_file.load(path)
