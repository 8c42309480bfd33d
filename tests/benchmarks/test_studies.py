"""Studies: an accuracy that is unknown is never counted as 0, and the C loop sums what it says."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.studies import gather_limit, race, sampling
from rfdetr_repro.records.record import Accuracy
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import InputError

FAST = Arch(64, 16, 1, 1, 25)
SLOW = Arch(128, 16, 1, 1, 25)


def test_an_unknown_accuracy_is_refused() -> None:
    assert race.known({FAST: 0.0, SLOW: 0.5}, Path("data")) == {FAST: 0.0, SLOW: 0.5}
    with pytest.raises(InputError, match="AP of 1 of 2 configurations is unknown.*data.*objects"):
        race.known({FAST: None, SLOW: 0.5}, Path("data"))


@pytest.mark.parametrize("ap", [0.25, 0.0, None])
def test_accuracies_of_a_run(ap: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    card = SimpleNamespace(category_ids=(1,), class_names=("a",), space=None)
    monkeypatch.setattr(sampling, "load_supernet", lambda path: (None, card, None))
    split = SimpleNamespace(cache_images=lambda: None)
    monkeypatch.setattr(sampling, "read_split", lambda *_: split)
    monkeypatch.setattr(sampling, "by_backbone", lambda space: [[FAST, SLOW]])
    measured = SimpleNamespace(
        accuracies=lambda group: {arch: {"bbox": Accuracy(ap=ap)} for arch in group}
    )
    monkeypatch.setattr(sampling, "GroupEvaluation", lambda *_, **__: measured)
    if ap is None:
        with pytest.raises(InputError, match="AP of 2 of 2 configurations is unknown"):
            sampling.accuracies(Path("run"), Path("data"))
    else:
        assert sampling.accuracies(Path("run"), Path("data")) == {FAST: ap, SLOW: ap}


def test_the_loop_sums_weighted_lines(tmp_path: Path) -> None:
    """Against NumPy; any processor, so without the flags that the study adds."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    library = tmp_path / "gather.so"
    flags = ["-O1", "-shared", "-fPIC"]
    subprocess.run([compiler, *flags, str(gather_limit.SOURCE), "-o", str(library)], check=True)
    random = np.random.default_rng(0)
    table = gather_limit._aligned(32 * 16)
    table[:] = random.normal(size=table.shape)
    offsets = random.integers(0, 32, 24, dtype=np.int32)
    weights = random.normal(size=24).astype(np.float32)
    out = gather_limit._aligned(2 * 24)
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in (table, offsets, weights)]
    gather = ctypes.CDLL(str(library)).gather
    gather(*pointers, ctypes.c_long(24), ctypes.c_void_p(out.ctypes.data))
    lines = table.reshape(32, 16)[offsets] * weights[:, None]
    np.testing.assert_allclose(out.reshape(3, 16), lines.reshape(3, 8, 16).sum(1), atol=1e-5)
