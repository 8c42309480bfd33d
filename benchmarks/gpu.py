"""Everything that needs a CUDA device, in one command and in minutes: build, tests, sanitizer,
benchmarks, Records.

    python benchmarks/gpu.py --out results/gpu

Needs PyTorch built for CUDA, NumPy, pytest, ninja and nvcc; no network and no tox. Sessions (CUDA
graphs, ONNX Runtime, TensorRT) are tested where what they need is installed. Ours is timed against
the formulation by grid_sample and against torch-ms-deform-attn and deformops where they are
installed, eager and as CUDA graphs, in turn. Times are device times over back-to-back calls, so
eager ones of small calls are what the host needs to launch them. Values stay in the L2 cache, as
they do in a decoder layer that has just projected them. Exit code 1 when a part failed; the others
still ran.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
SANITIZED = ["memcheck", "racecheck"]
SESSIONS = [
    "tests/runtime/test_cuda_device.py",
    "tests/runtime/test_torch_session.py",
    "tests/runtime/test_ort_cuda_session.py",
    "tests/train/test_auto_batch.py",
    "tests/runtime/test_tensorrt_session.py",
    "tests/search/test_deployment.py",
    "tests/bench/test_gpu_load.py",
]
NEEDED = ("faster_coco_eval", "hotcoco")  # by the sessions' tests; the rest does without
Call = Callable[[], Any]


def event_ms(call: Call, repeats: int) -> float:
    """Mean device time of one of ``repeats`` calls in a row."""
    start = torch.cuda.Event(enable_timing=True)
    end = torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(repeats):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / repeats


def host_ms(call: Call, repeats: int) -> float:
    """The same without a device, to try this script on a CPU."""
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    return 1e3 * (time.perf_counter() - started) / repeats


class NotCapturable(Exception):
    """CUDA or PyTorch refuses to capture a call; says why, in one line."""


def captured(call: Call) -> Call:
    """``call`` as a CUDA graph.

    Raises :class:`NotCapturable` for what a stream refuses while it is captured. Any other error,
    such as memory that runs out or a kernel that fails, is raised as it is.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            call()
    except RuntimeError as error:
        reason = capture_refusal(error)
        if reason is None:
            raise
        torch.cuda.synchronize()
        raise NotCapturable(reason) from error
    graph.replay()
    torch.cuda.synchronize()
    replay: Call = graph.replay
    return replay


def capture_refusal(error: BaseException) -> str | None:
    """Why a capture was refused, None if ``error`` is about something else.

    The messages of CUDA's errors 900 to 908 and of PyTorch's own checks speak of capturing. The end
    of a spoiled capture is an error, too, whatever spoiled it: the first one of the chain decides.
    """
    chain: list[BaseException] = [error]
    while chain[-1].__context__ is not None:
        chain.append(chain[-1].__context__)
    first = next(found for found in reversed(chain) if isinstance(found, RuntimeError))
    line = next(iter(str(first).splitlines()), "")
    return line[:120] if "captur" in line.lower() else None


def graphs_of(calls: dict[str, Call], notes: list[str], what: str) -> dict[str, Call]:
    """The calls as CUDA graphs; of those that cannot be captured, ``notes`` say why."""
    found = {}
    for name, call in calls.items():
        try:
            found[name] = captured(call)
        except NotCapturable as error:
            notes.append(f"{what}: {name} cannot be captured ({error})")
    return found


def medians(
    calls: dict[str, Call], measure: Callable[[Call, int], float], rounds: int, repeats: int
) -> dict[str, float]:
    """Median over rounds, each of which runs every call ``repeats`` times; the first round is
    warm-up.
    """
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            samples[name].append(measure(call, repeats))
    return {name: statistics.median(times[1:]) for name, times in samples.items()}


def works(case: str, device: str, dtype: torch.dtype) -> dict[str, dict[str, Call]]:
    """Work -> who -> call."""
    from cases import forward, forward_backward, inputs, peers

    from rfdetr_repro.ops import (
        ms_deform_attn,
        ms_deform_attn_fused,
        ms_deform_attn_fused_reference,
    )

    levels, tensors = inputs(case, device)
    tensors = [tensor.detach().to(dtype).requires_grad_() for tensor in tensors]
    value, offsets, logits = (tensor.detach() for tensor in tensors)
    boxes = (torch.rand(*offsets.shape[:2], 4) * 0.5 + 0.2).to(device, dtype)
    ops = {"ours": ms_deform_attn, **peers(device)}
    fused = {"ours": ms_deform_attn_fused, "grid_sample": ms_deform_attn_fused_reference}

    def in_float(op: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        return lambda *arguments: op(*arguments).float()  # one type of upstream gradient for all

    return {
        "forward": {name: forward(op, levels, tensors) for name, op in ops.items()},
        "forward+backward": {
            name: forward_backward(in_float(op), levels, tensors) for name, op in ops.items()
        },
        "fused": {
            name: forward(op, levels, [value, offsets, boxes, logits]) for name, op in fused.items()
        },
    }


def runnable(calls: dict[str, Call], notes: list[str], what: str) -> dict[str, Call]:
    """Those that can do this work: a peer may refuse a type or a number of points."""
    found = {}
    for name, call in calls.items():
        try:
            call()
            found[name] = call
        except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
            if name == "ours":
                raise
            notes.append(f"{what}: {name} cannot ({str(error).splitlines()[0][:120]})")
    return found


def measure_operators(
    store_path: Path, device: str, chosen: Sequence[str] | None, rounds: int
) -> list[str]:
    """Measures every case, appends a Record per time, and returns the table's lines."""
    sys.path.insert(0, str(ROOT))  # only now: the operators are imported, and have just been built
    from cases import CASES

    from rfdetr_repro.bench.machine import environment, this_machine
    from rfdetr_repro.records.record import Latency, ModelId, Record
    from rfdetr_repro.records.store import Store
    from rfdetr_repro.spec.protocol import Protocol

    store = Store(store_path)
    machine = this_machine()
    env = environment()
    if device == "cuda":
        machine = replace(machine, gpu=torch.cuda.get_device_name())
    protocol = Protocol(
        "sustained", "device", 0.0, min_samples=rounds, max_samples=rounds, threads=1
    )
    common = dict(
        protocol=protocol,
        machine=machine,
        env=env,
        command=f"python benchmarks/gpu.py --device {device}",
    )
    notes: list[str] = []
    lines = [
        f"{'case':<16} {'dtype':<9} {'work':<17} {'mode':<6} {'ours ms':>9}  others: ms (times "
        f"ours)"
    ]
    for case in chosen or CASES:
        for dtype_name, dtype in DTYPES.items():
            for work, all_calls in works(case, device, dtype).items():
                what = f"{case} {dtype_name} {work}"
                calls = runnable(all_calls, notes, what)
                modes: dict[str, dict[str, Call]] = {"eager": calls}
                if device == "cuda":
                    modes["graph"] = graphs_of(calls, notes, what)
                for mode, there in modes.items():
                    measure = event_ms if device == "cuda" else host_ms
                    times = medians(there, measure, rounds, 20 if device == "cuda" else 2)
                    for name, ms in times.items():
                        identity = ModelId(
                            "operator",
                            f"{work} {case} {dtype_name} {mode}",
                            variant=name,
                            weights="random",
                        )
                        latency = Latency(ms, num_samples=rounds, cuda_graph=mode == "graph")
                        store.append(Record("operator", identity, latency=latency, **common))
                    if "ours" not in times:
                        continue
                    rest = ", ".join(
                        f"{n} {t:.4f} ({t / times['ours']:.2f})"
                        for n, t in times.items()
                        if n != "ours"
                    )
                    lines.append(
                        f"{case:<16} {dtype_name:<9} {work:<17} {mode:<6} {times['ours']:9.4f}  "
                        f"{rest}"
                    )
                    print(lines[-1], flush=True)
    return [*lines, *notes]


def step(name: str, command: list[str], out: Path, timeout_s: float) -> bool:
    """Runs a part, keeps what it prints in ``out``/NAME.log, and says how it went."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        # this device's kernels only: minutes less
        environment |= {"RFDETR_CUDA": "1", "RFDETR_CUDA_ARCHS": f"{major}{minor}"}
    started = time.monotonic()
    with (out / f"{name}.log").open("w") as log:
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=log,
                timeout=timeout_s,
                check=False,
            )
            code = done.returncode
        except subprocess.TimeoutExpired:
            code = -1
    last = (out / f"{name}.log").read_text().strip().splitlines()[-1:] or [""]
    print(
        f"{name}: {'ok' if code == 0 else f'FAILED ({code})'} in {time.monotonic() - started:.0f} "
        f"s; {last[0]}",
        flush=True,
    )
    return code == 0


def commands(args: argparse.Namespace) -> dict[str, tuple[list[str], float]]:
    """Part -> command and its limit in seconds, in their order, without those to skip."""
    tests = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "tests" / "ops").glob("test_ops*.py"))
        if "properties" not in path.name
    ]
    pytest_command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu"]
    few = [
        *pytest_command,
        "tests/ops/test_ops_fused.py",
        "-k",
        "test_values_and_gradients and float32 and 16",
    ]
    found: dict[str, tuple[list[str], float]] = {}
    if "build" not in args.skip:
        found["build"] = [sys.executable, "setup.py", "build_ext", "--inplace"], 300
    if args.device == "cuda":
        sanitizer = shutil.which("compute-sanitizer")
        if "tests" not in args.skip:
            found["tests"] = (
                [*pytest_command, *tests, f"--junitxml={args.out.resolve() / 'tests.xml'}"],
                300,
            )
            if all(map(find_spec, NEEDED)):
                found["sessions"] = [*pytest_command, *SESSIONS], 300
        if "sanitizer" not in args.skip and sanitizer:
            found |= {
                tool: ([sanitizer, "--tool", tool, "--error-exitcode", "9", *few], 150)
                for tool in SANITIZED
            }
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table of measurements; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(os.environ.get("OUT", "results/gpu")),
        help="folder of logs and Records",
    )
    parser.add_argument(
        "--device",
        choices=["cuda", "cpu"],
        default="cuda",
        help="cpu: try the script without a device",
    )
    parser.add_argument(
        "--cases", nargs="+", metavar="CASE", help="of benchmarks/cases.py; all by default"
    )
    parser.add_argument("--rounds", type=int, default=15, help="samples per time")
    parser.add_argument(
        "--skip", nargs="*", choices=["build", "tests", "sanitizer", "benchmarks"], default=[]
    )
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        print(
            "error: PyTorch sees no CUDA device; --device cpu tries the script without one",
            file=sys.stderr,
        )
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    failed = []
    for name, (command, timeout_s) in commands(args).items():
        if not step(name, command, args.out, timeout_s):
            failed.append(name)
        if failed == ["build"]:
            print("the build failed: nothing else can run", file=sys.stderr)
            return 1
    if args.device == "cuda" and not shutil.which("compute-sanitizer"):
        print("sanitizer: skipped, compute-sanitizer is not installed", flush=True)
    if args.device == "cuda" and not all(map(find_spec, NEEDED)):
        print(f"sessions: skipped, their tests need {' and '.join(NEEDED)}", flush=True)
    if "benchmarks" not in args.skip:
        lines = measure_operators(
            args.out / "operators.jsonl", args.device, args.cases, args.rounds
        )
        (args.out / "operators.txt").write_text("\n".join(lines) + "\n")
        print("\n".join(line for line in lines if " cannot " in line))
    print(f"failed: {', '.join(failed)}" if failed else "all parts ok")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
