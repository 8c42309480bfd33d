"""Studies: an accuracy that is unknown is never counted as 0, and the C loop sums what it says."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.studies import float32_floor, gather_limit, latency_tails, race, sampling
from benchmarks.subjects import pico_artifact
from rfdetr_repro.export.artifact import Artifact
from rfdetr_repro.records.record import Accuracy, ArtifactId, Latency, ModelId, Record
from rfdetr_repro.records.samples import Series, as_stored, save_samples
from rfdetr_repro.records.store import Store
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.protocol import Protocol

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


def test_tails_are_those_of_numpy_and_only_files_with_both_protocols_count(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    store = Store(tmp_path / "mine.jsonl")
    samples = {}
    for file, mode in ((1, "buffered"), (1, "sustained"), (2, "buffered")):
        ms = as_stored(10 + rng.exponential(8, 100))
        samples[file, mode] = ms
        sha256 = f"{file:064x}"
        store.append(
            Record(
                "protocol",
                ModelId("rfdetr", f"rfdetr {file}"),
                artifact=ArtifactId(sha256, sha256, "onnxruntime-cpu", "fp32", 1),
                latency=Latency(
                    float(np.median(ms)),
                    artifact_sha256=sha256,
                    samples_sha256=save_samples(tmp_path, Series.of(ms)),
                ),
                protocol=Protocol(mode=mode, buffer_ms=200.0 if mode == "buffered" else 0.0),
            )
        )
    found = latency_tails.tails(store.path)
    assert list(found) == [f"{1:064x}"]
    for mode, tail in found[f"{1:064x}"].items():
        ms = samples[1, mode]
        assert tail.over[1] == pytest.approx(100 * (np.percentile(ms, 95) / np.median(ms) - 1))
        assert tail.missed == pytest.approx((np.mean(ms > 100 / 3), np.mean(ms > 50 / 3)))
    assert any("missed at 60" in line for line in latency_tails.table(found))


def test_the_floor_has_the_products_of_the_network() -> None:
    """Against PyTorch's count of operations, which leaves out attention on the CPU and counts the
    depthwise convolutions of the mask head, which are no products.
    """
    forward, plain = float32_floor.network("pico")
    with torch.inference_mode():
        rows = float32_floor.rows_of(plain, 1)
        own = float32_floor.rows_of(forward, 1)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        plain()
    attention = "scaled_dot_product_attention"
    products = [one for row in rows if row.name != attention for one in row.products]
    counted = counter.get_total_flops()
    assert 0.995 * counted < sum(one.flops for one in products) <= counted
    whole = [sum(one.flops for row in way for one in row.products) for way in (rows, own)]
    assert whole[0] == whole[1] > counted


def test_the_exported_file_runs_beside_the_floor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def exported(name: str, folder: Path) -> Artifact:
        asked.append(name)
        return pico_artifact(folder)

    monkeypatch.setattr(float32_floor, "model_artifact", exported)
    call = float32_floor.onnx_call("nano", tmp_path)
    call()
    assert asked == ["rfdetr-nano"]


def test_what_lies_above_the_floor() -> None:
    product = float32_floor.Product(1, 4, 5, 6)
    row = float32_floor.Row
    floor = SimpleNamespace(ms={product: 2.0})
    rows = [row("gelu", (), 0.5), row("linear", (product,), 2.25), row("linear", (product,), 3.0)]
    assert float32_floor.above(rows, floor) == {"linear": (2, 5.25, 1.25), "gelu": (1, 0.5, 0.5)}
    assert product.flops == 240
    for name, call in float32_floor.ways(product).items():
        assert call().shape == (4, 6), name
