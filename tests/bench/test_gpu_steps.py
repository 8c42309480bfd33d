"""The steps of benchmarks/gpu.py: each step notices a wrong result, accepts no refusal but that of
an option that needs a GPU, and says why a call is no CUDA graph.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.gpu_steps import (
    latency,
    ncu,
    operators,
    paths,
    search_passes,
    supernet,
    timing,
    training,
)
from benchmarks.gpu_steps.step import ABSENT, WRONG, Step
from rfdetr_repro.spec.errors import InputError

# as CUDA 12 and PyTorch 2.13 word them
DURING = "CUDA error: operation not permitted when stream is capturing"
AFTER = "CUDA error: operation failed due to a previous error during capture"


def step_of(tmp_path: Path) -> Step:
    argv = ["--out", str(tmp_path / "records.jsonl"), "--device", "cpu", "--toy"]
    return Step.of("a step", None, argv)


def doubled(result: Any) -> Any:
    return 2 * result if isinstance(result, torch.Tensor) else tuple(map(doubled, result))


def attention_of(step: Step) -> None:
    operators.attention(step, 1e9, [])


FALSE = {
    "forward": ("ms_deform_attn", attention_of),
    "fused": ("ms_deform_attn_fused", attention_of),
    "masks": ("masks_from_logits", lambda step: operators.masks(step, 1e9, [])),
}


@pytest.mark.parametrize("operator", FALSE)
def test_each_wrong_operator_is_noticed(
    operator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, work = FALSE[operator]
    correct: Callable[..., Any] = getattr(operators.ops, name)

    def false(*arguments: Any, **options: Any) -> Any:
        result = correct(*arguments, **options)
        return result ^ True if result.dtype in (torch.bool, torch.uint8) else 2 * result

    monkeypatch.setattr(operators.ops, name, false)
    step = step_of(tmp_path)
    work(step)
    assert all(operator in fault or "both" in fault for fault in step.faults) and step.faults
    with pytest.raises(SystemExit) as ended:
        step.end()
    assert ended.value.code == WRONG


def test_a_wrong_gradient_is_noticed_by_operators_and_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    correct = operators.OPERATORS.ms_deform_attn_backward.default
    false = SimpleNamespace(default=lambda *arguments: doubled(correct(*arguments)))
    monkeypatch.setattr(
        operators, "OPERATORS", SimpleNamespace(ms_deform_attn_backward=false), raising=True
    )
    step = step_of(tmp_path)
    attention_of(step)
    assert len(step.faults) == 4 and all("backward" in fault for fault in step.faults)
    step = step_of(tmp_path)
    paths.compare(step, *paths.WANTED[0])
    assert len(step.faults) == len(paths.GRADIENT), step.faults


def test_only_what_is_wanted_is_computed_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    case = operators.Case(1, 4, [(4, 4)], 2)
    inputs = operators.Inputs.of(case, torch.float32, torch.device("cpu"))
    whole = operators.exact_of(inputs)
    assert whole.keys() == set(operators.WORKS)

    def unwanted(*_: object) -> None:
        raise AssertionError("it is not used")

    monkeypatch.setattr(operators.ops, "ms_deform_attn_fused_reference", unwanted)
    found = operators.exact_of(inputs, ["backward"])
    assert operators.difference(found["backward"], whole["backward"]) == 0
    monkeypatch.setattr(torch.autograd, "grad", unwanted)
    assert operators.exact_of(inputs, ["forward"]).keys() == {"forward"}


NEEDS = "precision=tf32 needs a GPU of compute capability 8.0 or more, not cpu"


@pytest.mark.parametrize(
    ("refusal", "needs_gpu", "fault"),
    [
        (InputError(NEEDS), True, None),
        (InputError(NEEDS), False, "failed: precision=tf32 needs"),
        (InputError("the split is empty"), True, "failed: the split is empty"),
        (RuntimeError("it needs a GPU"), True, "failed: it needs a GPU"),
        (None, True, "was not refused"),
    ],
)
def test_only_what_needs_a_gpu_may_be_refused_and_must_be(
    refusal: Exception | None,
    needs_gpu: bool,
    fault: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def trainer_for(*_: object, **__: object) -> object:
        if refusal is not None:
            raise refusal
        return SimpleNamespace()

    found = SimpleNamespace(step_ms=1.0, images_per_s=2.0, peak_bytes=0, waits=None)
    monkeypatch.setattr(training.pace, "trainer_for", trainer_for)
    monkeypatch.setattr(training.pace, "measure", lambda *_, **__: found)
    step = step_of(tmp_path)
    split: Any = None  # the trainer's stand-in reads no pictures
    training.measured(step, split, "a case", "tf32", "made up", needs_gpu=needs_gpu)
    assert len(step.faults) == (fault is not None)
    assert all(str(fault) in told for told in step.faults)


def test_latencies_that_do_not_fit_are_left_out() -> None:
    both = [latency.SUSTAINED, latency.RESTED]  # 3 s and 4.8 s of a row, which is opened in 1.5 s
    found = [latency.fits(left_s, 10, both) for left_s in (44.0, 46.0, 92.0, 94.0)]
    assert found == [[], both[:1], both[:1], both]


def test_results_that_agree_end_a_step_well(tmp_path: Path) -> None:
    step = step_of(tmp_path)
    attention_of(step)
    operators.masks(step, 1e9, [])
    assert not step.faults
    step.end()


@pytest.mark.parametrize(
    ("there", "faults"),
    [
        ([{"loss": 10.0}, {"loss": 9.1}], 0),
        ([{"loss": 10.1}, {"loss": 9.0}], 1),
        ([{"loss": 10.0}, {"loss": 12.0}], 1),
        ([{"loss": float("nan")}, {"loss": float("nan")}], 2),
    ],
    ids=["alike", "the first differs", "a later one differs", "not a number"],
)
def test_losses_unlike_the_cpus_are_wrong(
    there: list[dict[str, float]], faults: int, tmp_path: Path
) -> None:
    step = step_of(tmp_path)
    told = supernet.compare(step, there, [{"loss": 10.0}, {"loss": 9.0}])
    assert len(step.faults) == faults and "of the first 2 losses" in told


@pytest.mark.parametrize("lost", [0.0, 0.01])
def test_an_ap_unlike_the_cpus_is_wrong(
    lost: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second evaluation stands for the GPU's."""
    made = []

    class Evaluation:
        def __init__(self, *_: object, **__: object) -> None:
            made.append(self)
            self.ap = 0.5 - lost * (len(made) > 1)

        def accuracies(self, group: list[Any]) -> dict[Any, Any]:
            return {arch: {"boxes": SimpleNamespace(ap=self.ap)} for arch in group}

    monkeypatch.setattr(search_passes, "GroupEvaluation", Evaluation)
    step = step_of(tmp_path)
    search_passes.equal_accuracy(step)
    assert len(step.faults) == (lost > 0)
    (record,) = step.store.read()
    assert f"difference of AP from the CPU's {100 * lost:.3f} points" in str(record.agreement)


NCU = """
==PROF== Connected to process 7
[7] python3.12@127.0.0.1
  void staged_forward_kernel<float, 16, 2>(Fast<T1>) (128, 1, 1)x(1024, 1, 1), Context 1, Device 0
    Section: GPU Speed Of Light Throughput
    ----------------------- ----------- ------------
    DRAM Throughput                   %        31.90
    Duration                         us        44.86
    INF   This workload exhibits low compute throughput.
"""


def test_the_figures_of_ncu() -> None:
    name, *figures = ncu.figures(NCU)
    assert "staged_forward_kernel" in name
    assert figures == ["  DRAM Throughput % 31.90", "  Duration us 44.86"]


@pytest.mark.parametrize(
    ("prints", "code", "faults"),
    [(NCU, 0, 0), ("killed", 1, 1), ("", 0, 1)],
    ids=["figures", "failed", "nothing"],
)
def test_ncu_that_sees_nothing_is_a_failure(
    prints: str, code: int, faults: int, tmp_path: Path
) -> None:
    step = step_of(tmp_path)
    ncu.profiled(step, ncu_that(tmp_path, prints, code))
    assert len(step.faults) == faults, step.faults
    assert prints.strip() in (tmp_path / "ncu.txt").read_text()


def ncu_that(folder: Path, prints: str, code: int) -> str:
    program = folder / "ncu"
    program.write_text(f"#!{sys.executable}\nprint({prints!r})\nraise SystemExit({code})\n")
    program.chmod(0o755)
    return str(program)


@pytest.mark.parametrize(
    ("installed", "reason"), [(False, "it is not installed"), (True, "denies the counters")]
)
def test_ncu_without_program_or_permission_is_absent(
    installed: bool,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    denies = ncu_that(tmp_path, "==ERROR== ERR_NVGPUCTRPERM", 1) if installed else None
    monkeypatch.setattr(ncu, "tool", lambda name: denies)
    monkeypatch.setattr(Step, "on_gpu", True)
    monkeypatch.setattr(sys, "argv", ["ncu", "--out", f"{tmp_path}/a.jsonl", "--device", "cpu"])
    with pytest.raises(SystemExit) as ended:
        ncu.main()
    assert ended.value.code == ABSENT
    assert reason in capsys.readouterr().out.splitlines()[-1]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
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
    monkeypatch.setattr(timing.torch, "cuda", fake)
    return state


def test_a_refused_capture_is_told_with_its_first_reason(
    gpu: dict[str, bool],
) -> None:
    def allocates() -> None:
        if gpu["capturing"]:
            raise torch.AcceleratorError(f"{DURING}\nCUDA kernel errors might be reported later")

    notes: list[str] = []
    calls = {"ours": lambda: None, "theirs": allocates}
    graphs = timing.graphs_of(calls, notes, "medium float32 forward")
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

    monkeypatch.setattr(timing.torch.cuda, "graph", graph)

    def fails() -> None:
        if gpu["capturing"] == inside:
            raise error

    with pytest.raises(type(error), match=str(error)[:10]):
        timing.captured(fails)


def test_a_capture_that_memory_spoiled_is_no_refusal(
    gpu: dict[str, bool],
) -> None:
    """The end of such a capture speaks of capturing, too."""

    def fails() -> None:
        if gpu["capturing"]:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(RuntimeError, match="previous error during capture"):
        timing.captured(fails)
