"""benchmarks/gpu.py, the one command for a CUDA machine: it runs every test file that has something
for a GPU, and says why a call is no CUDA graph.
"""

from __future__ import annotations

import argparse
import importlib.util
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
# as CUDA 12 and PyTorch 2.13 word them
DURING = "CUDA error: operation not permitted when stream is capturing"
AFTER = "CUDA error: operation failed due to a previous error during capture"


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_script", ROOT / "benchmarks" / "gpu.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_gpu_test_is_run(script: ModuleType, tmp_path: Path) -> None:
    found = script.commands(argparse.Namespace(device="cuda", skip=[], out=tmp_path))
    run = {
        Path(word).name for command, _ in found.values() for word in command if word.endswith(".py")
    }
    marked = {
        path.name
        for path in (ROOT / "tests").rglob("test_*.py")
        if "pytest.mark.gpu\n" in path.read_text()
    }
    assert len(marked) >= 5 and marked <= run, marked - run


@pytest.fixture
def gpu(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """A stand-in for torch.cuda: the end of a spoiled capture raises, as PyTorch's does."""
    state = {"capturing": False}

    @contextmanager
    def graph(_: object):
        state["capturing"] = True
        try:
            yield
        except RuntimeError as error:
            raise torch.AcceleratorError(AFTER) from error.__cause__
        finally:
            state["capturing"] = False

    stream = SimpleNamespace(wait_stream=lambda other: None)
    fake = SimpleNamespace(
        Stream=lambda: stream,
        current_stream=lambda: stream,
        stream=lambda _: nullcontext(),
        CUDAGraph=lambda: SimpleNamespace(replay=lambda: "replayed"),
        graph=graph,
        synchronize=lambda: None,
    )
    monkeypatch.setattr(script.torch, "cuda", fake)
    return state


def test_a_refused_capture_is_told_with_its_first_reason(
    script: ModuleType, gpu: dict[str, bool]
) -> None:
    def allocates() -> None:
        if gpu["capturing"]:
            raise torch.AcceleratorError(f"{DURING}\nCUDA kernel errors might be reported later")

    notes: list[str] = []
    calls = {"ours": lambda: None, "theirs": allocates}
    graphs = script.graphs_of(calls, notes, "medium float32 forward")
    assert list(graphs) == ["ours"] and graphs["ours"]() == "replayed"
    assert notes == [f"medium float32 forward: theirs cannot be captured ({DURING})"]


@pytest.mark.parametrize("inside", [False, True], ids=["before the capture", "while capturing"])
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        ValueError("a shape"),
    ],
)
def test_any_other_error_is_no_refusal(
    error: Exception,
    inside: bool,
    script: ModuleType,
    gpu: dict[str, bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @contextmanager
    def graph(_: object):
        gpu["capturing"] = True
        try:
            yield
        finally:
            gpu["capturing"] = False

    monkeypatch.setattr(script.torch.cuda, "graph", graph)

    def fails() -> None:
        if gpu["capturing"] == inside:
            raise error

    with pytest.raises(type(error), match=str(error)[:10]):
        script.captured(fails)


def test_a_capture_that_memory_spoiled_is_no_refusal(
    script: ModuleType, gpu: dict[str, bool]
) -> None:
    """The end of such a capture speaks of capturing, too."""

    def fails() -> None:
        if gpu["capturing"]:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(RuntimeError, match="previous error during capture"):
        script.captured(fails)
