"""benchmarks/gpu.py, the one command for a CUDA machine: it runs every test file that has something
for a GPU, ends what takes too long, leaves what it found, and says why a call is no CUDA graph. A
wrong result fails it. The dry run takes every measuring step at toy size, so that the first run on
a GPU is no rehearsal.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.gpu_steps import (
    forked,
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

ROOT = Path(__file__).resolve().parents[2]
# as CUDA 12 and PyTorch 2.13 word them
DURING = "CUDA error: operation not permitted when stream is capturing"
AFTER = "CUDA error: operation failed due to a previous error during capture"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_script", ROOT / "benchmarks" / "gpu.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_every_gpu_test_is_run(script: ModuleType, tmp_path: Path) -> None:
    run = {
        Path(word).name
        for part in script.plan(False, tmp_path)
        for word in part.command
        if word.endswith(".py")
    }
    marked = {
        path.name
        for path in (ROOT / "tests").rglob("test_*.py")
        if "pytest.mark.gpu\n" in path.read_text()
    }
    assert len(marked) >= 5 and marked <= run, marked - run


@pytest.mark.parametrize("part", ["evidence", "training", "all"])
def test_the_plan_keeps_within_the_deadline(script: ModuleType, tmp_path: Path, part: str) -> None:
    """Where every step takes the whole of its time, sanitizers included, each still gets it."""
    begun = 0.0
    for step in script.plan(False, tmp_path, part):
        left = script.DEADLINES[part] - begun - script.KILLED_AFTER_S
        assert left >= step.seconds >= script.LEAST_S, step.name
        begun += step.seconds


def test_the_parts_fit_the_machine_and_are_the_whole(script: ModuleType, tmp_path: Path) -> None:
    """A command has 10 minutes and both have 15, with the start of the machine."""
    evidence, training, whole = (
        [step.name for step in script.plan(False, tmp_path, part)] for part in script.DEADLINES
    )
    assert whole == [*evidence, *training[1:]] and evidence[0] == training[0] == "build"
    assert {"memcheck", "racecheck", "synccheck", "ncu", "operators"} <= set(evidence)
    assert script.DEADLINES["evidence"] < 600
    assert script.DEADLINES["evidence"] + script.DEADLINES["training"] < 900


def test_the_sanitizers_see_every_path(script: ModuleType, tmp_path: Path) -> None:
    """Their selection finds tests; without the program they are left out and the run says so."""
    parts = {part.name: part for part in script.plan(False, tmp_path)}
    words = list(parts["racecheck"].command)
    pytest_call = words[words.index(sys.executable) :]
    done = subprocess.run(
        [*pytest_call, "-n0", "--collect-only"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    names = re.findall(r"::(test_every_path_on_the_gpu\[\S+\])", done.stdout)
    assert len(names) == 2 and len(re.findall("::test_", done.stdout)) == 2, done.stdout
    assert any("pairs" in name for name in names) and any("levels" in name for name in names)


def test_a_program_that_is_not_installed_is_left_out(script: ModuleType, tmp_path: Path) -> None:
    run = script.Run(tmp_path, 60.0, False)
    command = (sys.executable, "-c", "print(1)")
    assert not run.take(script.Part("memcheck", command, 30.0, absent="it is not installed"))
    assert run.absent == {"memcheck": "it is not installed"} and not run.failed
    assert run.summary == ["== memcheck: left out, it is not installed"]


@pytest.mark.parametrize(
    ("codes", "code", "last"),
    [
        ([0, 0], 0, "all steps ok"),
        ([0, 4], 4, "all other steps ok; left out: second (why not)"),
        ([4, 1], 1, "failed or cut off: second; left out: first (why not)"),
        ([3, 0], 1, "failed or cut off: first"),
    ],
)
def test_line_and_exit_code_tell_absent_from_failed(
    codes: list[int],
    code: int,
    last: str,
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def plan(dry: bool, work: Path, part: str) -> list[Any]:
        return [
            script.Part(name, ("sh", "-c", f"echo why not; exit {ends}"), 30.0, measures=True)
            for name, ends in zip(("first", "second"), codes, strict=True)
        ]

    monkeypatch.setattr(script, "plan", plan)
    assert script.main(["--dry-run", "--out", str(tmp_path)]) == code
    lines = (tmp_path / "summary.txt").read_text().splitlines()
    assert lines[-1] == last
    words = {0: "ok", 4: "left out, why not", 1: "FAILED (1)", 3: "FAILED, wrong results"}
    told = [line.split(": ", 1)[1].rsplit(", ", 1)[0] for line in lines if line.startswith("== ")]
    assert told == [words[ends] for ends in codes]


@pytest.mark.slow
@pytest.mark.timeout(3600)  # at most; a loaded machine may take minutes
def test_dry_run(tmp_path: Path) -> None:
    """Every measuring step, on the CPU; the tests for a GPU skip there."""
    command = [sys.executable, "benchmarks/gpu.py", "--dry-run", "--out", str(tmp_path)]
    done = subprocess.run(
        [*command, "--skip", "tests"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all steps ok" in done.stdout and "WRONG" not in done.stdout
    lines = (tmp_path / "records.jsonl").read_text().splitlines()
    sources = {json.loads(line)["model"]["family"] for line in lines}
    assert {"ceiling", "operator", "training", "search", "rfdetr"} <= sources
    work = tmp_path / "work"
    latencies = (work / "latency.log").read_text()
    assert "buffered" in latencies and "without the watch" in latencies
    refused = "refused, as it must be without a GPU"
    assert all(refused in (work / f"{name}.log").read_text() for name in ("training", "compiled"))
    assert "sorted-2" in (work / "paths.log").read_text()
    with tarfile.open(tmp_path / "gpu.tar.gz") as archive:
        names = archive.getnames()
    assert {"operators.log", "operators.jsonl", "summary.txt"} <= set(names)
    outside = [path.name for path in tmp_path.iterdir() if path.is_file()]
    assert sorted(outside) == ["gpu.tar.gz", "records.jsonl", "summary.txt"]


FALSIFIED = """
from benchmarks.gpu_steps import operators

correct = operators.ops.ms_deform_attn
operators.ops.ms_deform_attn = lambda *arguments: 1.001 * correct(*arguments)
operators.main()
"""


def test_a_wrong_operator_fails_the_run_after_the_rest(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All is measured and the next step runs; then the exit code is 1."""

    def plan(dry: bool, work: Path, part: str) -> list[Any]:
        options = ("--out", f"{work}/operators.jsonl", "--device", "cpu", "--toy")
        falsified = (sys.executable, "-c", FALSIFIED, *options)
        after = (sys.executable, "-c", "print('after')")
        return [
            script.Part("operators", falsified, 60.0, measures=True),
            script.Part("after", after, 10.0),
        ]

    monkeypatch.setattr(script, "plan", plan)
    assert script.main(["--dry-run", "--out", str(tmp_path)]) == 1
    text = (tmp_path / "summary.txt").read_text()
    assert "== operators: FAILED, wrong results" in text and "== after: ok" in text
    assert "WRONG: forward b2-q30-8x8 float32: ours" in text
    assert text.rstrip().endswith("failed or cut off: operators")
    lines = (tmp_path / "records.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert {"fused b1-q20-2levels float32 graph"} <= {one["model"]["name"] for one in records}
    stated = [one["agreement"] for one in records if one["model"].get("variant") == "ours"]
    assert not any("campaign" in one for one in records)
    assert any("difference from grid_sample in float64 1.0e-03" in one for one in stated)


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


def ended(pid: int) -> bool:
    """Whether a process is gone, or only waits for its parent to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="needs Linux's /proc")
def test_a_step_that_hangs_is_ended_with_its_children(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it had printed is kept, and the next step runs."""
    monkeypatch.setattr(script, "LEAST_S", 0.5)
    program = (
        "import subprocess, sys, time; "
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
        "print(child.pid, flush=True); time.sleep(600)"
    )
    run = script.Run(tmp_path / "out", 600.0, False)
    hangs = script.Part("hangs", (sys.executable, "-c", program), 3.0 - script.SLACK_S)
    assert not run.take(hangs)
    assert run.take(script.Part("next", (sys.executable, "-c", "print('after')"), 10.0))
    run.pack()
    text = (tmp_path / "out" / "summary.txt").read_text()
    assert "after" in text and "ended after its 3 s" in text and run.failed == ["hangs"]
    pid = int((tmp_path / "out" / "work" / "hangs.log").read_text())
    for _ in range(200):
        if ended(pid):
            break
        time.sleep(0.1)
    assert ended(pid)


@pytest.mark.parametrize(
    ("text", "code", "left"),
    [
        ("import sys; print(*sys.argv); sys.exit(3)", 3, "a --toy"),
        ("print('before'); 1 / 0", 1, "ZeroDivisionError"),
        ("import os; print(os.environ['GIVEN'])", 0, "so"),
        ("import time; print('begun', flush=True); time.sleep(600)", None, "begun"),
    ],
)
def test_a_fork_is_as_a_program(
    text: str, code: int | None, left: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forked, "SHARED", ())
    monkeypatch.syspath_prepend(tmp_path)
    name = f"forked_step_{code}"
    (tmp_path / f"{name}.py").write_text(text)
    log = tmp_path / "log"
    limit_s = 1.0 if code is None else 60.0
    assert forked.run((name, "a", "--toy"), log, {"GIVEN": "so"}, limit_s) == code
    assert left in log.read_text()


def test_slow_machines_are_waited_for_without_a_gpu(script: ModuleType, tmp_path: Path) -> None:
    assert script.Run(tmp_path, 60.0, True).slack_s > 60 * script.Run(tmp_path, 60.0, False).slack_s
    asked = (["--dry-run"], [], ["--dry-run", "--deadline", "9"])
    found = [script.deadline_of(script.parser().parse_args(words)) for words in asked]
    assert found == [script.DRY_S, script.DEADLINES["evidence"], 9.0]


def test_a_run_without_time_leaves_steps_out(script: ModuleType, tmp_path: Path) -> None:
    run = script.Run(tmp_path, 4.0, True)
    assert not run.take(script.Part("late", (sys.executable, "-c", "print(1)"), 10.0))
    assert "late: left out" in run.summary[-1] and run.failed == ["late"]


def test_unknown_steps_and_a_machine_without_a_gpu(
    script: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert script.main(["--only", "operator"]) == 2
    assert "no step is called 'operator'" in capsys.readouterr().err
    taken = tmp_path / "taken"
    taken.write_text("")
    for wrong in (["--out", str(taken)], ["--deadline", "0"]):
        assert script.main(["--dry-run", "--only", "ceilings", "--out", str(tmp_path), *wrong]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    monkeypatch.setattr(script, "architecture", lambda: None)
    assert script.main(["--only", "operators"]) == 2
    assert "no NVIDIA GPU answers" in capsys.readouterr().err


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
