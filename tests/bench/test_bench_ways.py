"""The benchmark command on a GPU: with and without a CUDA graph, what goes together, how many
candidates.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from samples_bench import fake_artifact
from samples_bench_command import models, run, sessions  # noqa: F401  # an autouse fixture

from rfdetr_repro.bench.gpu.device import Watched
from rfdetr_repro.records.record import Machine
from rfdetr_repro.records.store import Store


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that nobody watches."""
    from rfdetr_repro.bench.gpu import device as gpu_device

    @contextmanager
    def watching(**_: object) -> Iterator[Watched]:
        yield Watched(None, Machine("cpu", 2, 8.0, "Linux", gpu="NVIDIA T4"), "free")  # type: ignore[arg-type]

    monkeypatch.setattr(gpu_device, "watching", watching)


@pytest.mark.usefixtures("gpu")
def test_with_and_without_a_cuda_graph(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(fake_artifact(tmp_path, name).path) for name in ("a", "broken")]
    code, out, err = run(
        capsys, tmp_path, "--onnx", *files, "--backend", "tensorrt", "--cuda-graph", "both"
    )
    assert code == 1 and "a launches" in out and "a CUDA graph" in out
    assert "failed: 2 of 4 rows" in err and "broken CUDA graph: the model does not load" in err
    records = Store(tmp_path / "out" / "s.jsonl").read()
    assert sorted(record.latency.cuda_graph for record in records if record.latency) == [
        False,
        True,
    ]
    assert len({record.id for record in records}) == 2
    code, out, _ = run(
        capsys, tmp_path, "--onnx", files[0], "--backend", "tensorrt", "--cuda-graph"
    )
    assert code == 0 and "launches" not in out  # one row, and it was measured before
    assert len(Store(tmp_path / "out" / "s.jsonl").read()) == 2


@pytest.mark.usefixtures("gpu")
def test_both_ways_of_pytorch_are_two_backends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(fake_artifact(tmp_path, "a").path)
    assert (
        run(capsys, tmp_path, "--onnx", file, "--backend", "torch-graph", "--cuda-graph", "both")[0]
        == 0
    )
    records = Store(tmp_path / "out" / "s.jsonl").read()
    assert sorted((r.artifact.runtime, r.latency.cuda_graph) for r in records) == [
        ("torch", False),
        ("torch-graph", True),
    ]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--flush-l2",), "onnxruntime runs on the CPU"),
        (("--spin-ms", "20"), "onnxruntime runs on the CPU"),
        (
            ("--spin-ms", "20", "--backend", "tensorrt", "--protocol", "sustained"),
            "sustained has no wait",
        ),
        (("--protocol", "sustained"), "--buffer-ms has no meaning where the buffered mode is not"),
        (("--campaign", "buffer-sweep", "--buffer-ms", "5"), "a campaign that sweeps over waits"),
        # QUICK waits 0 ms
        (("--spin-ms", "20", "--backend", "tensorrt"), "20 ms of spinning do not fit"),
        (("--flush-l2", "--backend", "tensorrt", "--protocol", "all"), "leave no time to flush"),
        (("--inject", "-1"), "is not a whole number from 0"),
        (
            ("--inject", "5", "--checkpoint", __file__, "--models", "yolov8-n"),
            "leave one of them out",
        ),
    ],
)
def test_what_does_not_go_together(
    arguments: tuple[str, ...], told: str, tmp_path: Path, capsys: Any
) -> None:
    file = str(fake_artifact(tmp_path).path)
    code, _, err = run(
        capsys, tmp_path, *(() if "--models" in arguments else ("--onnx", file)), *arguments
    )
    assert code == 2 and told in err and err.count("\n") == 1 and not (tmp_path / "out").exists()


def test_candidates_of_models_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    asked = models(monkeypatch, tmp_path)
    assert run(capsys, tmp_path, "--models", "rfdetr-medium,dfine-m", "--inject", "1000")[0] == 0
    assert asked == [("rfdetr-medium", "onnx", 1000), ("dfine-m", "onnx", 1000)]
