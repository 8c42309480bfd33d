"""Every path of the CUDA attention kernels against the CPU kernels, on calls so large that a block
takes several tiles and every map is shared out among several blocks.

The host chooses a path by the sizes of a call, and small calls all take the same one;
``RFDETR_CUDA_PATH`` forces each (docs/method/kernels.md, section 5). That the calls below reach
every kernel in several chunks on an H100 and on smaller devices is tested without a GPU.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from cuda_host import CXX, KERNELS, ROOT
from samples import flat, fused_inputs, sample_inputs
from torch import Tensor

from rfdetr_repro.ops.library import OPERATORS

VARIABLE = "RFDETR_CUDA_PATH"
CHOSEN = "chosen"  # by the host
DETERMINISTIC = "deterministic"  # each sum has one owner; asked for by an argument
KERNEL = {  # work -> path -> kernel; with any other path the host chooses
    "forward": {
        "general": "forward_kernel",
        "direct": "direct_forward_kernel",
        "staged": "staged_forward_kernel",
    },
    "gradient": {
        "general": "phased_kernel",
        "direct": "direct_backward_kernel",
        "sorted": "sorted_backward_kernel",
        "sorted-1": "sorted_backward_kernel",
        "sorted-2": "sorted_backward_kernel",
        DETERMINISTIC: "value_kernel",
    },
}
PATHS = tuple(dict.fromkeys(path for paths in KERNEL.values() for path in paths))
TYPES = (torch.float32, torch.bfloat16, torch.float16)
FORMS = ("locations", "fused")


class Case(NamedTuple):
    """Sizes of a call; no number of queries is a multiple of a chunk or a tile."""

    levels: list[tuple[int, int]]
    batch: int
    queries: int
    heads: int
    channels: int
    points: int


CASES = {
    "pairs": Case([(24, 24)], 2, 30_001, 16, 16, 2),  # kernels of their own
    "levels": Case([(12, 12), (6, 6), (3, 3)], 2, 6_007, 16, 16, 4),  # likewise: four points
    "threes": Case([(12, 12), (6, 6)], 2, 12_007, 16, 16, 3),
    "wide": Case([(9, 7)], 2, 8_003, 16, 32, 8),
    # beyond shared memory: the general gradient adds to the result, and nothing can be staged
    "large": Case([(130, 120)], 1, 3_001, 4, 16, 2),
}


@cache
def inputs_of(case: str, form: str) -> tuple[Tensor, ...]:
    """Value, then locations and weights, or offsets, boxes and logits; float32, on the CPU."""
    levels, batch, queries, heads, channels, points = CASES[case]
    sizes = dict(batch=batch, queries=queries, heads=heads, channels=channels, points=points)
    if form == "fused":
        return tuple(fused_inputs(levels, dtype=torch.float32, **sizes))
    return tuple(sample_inputs(levels, dtype=torch.float32, away_from_knots=True, **sizes))


def arguments(case: str, form: str, dtype: torch.dtype) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The upstream gradient, and the inputs with values of a type; on the CPU."""
    value, *others = inputs_of(case, form)
    batch, queries, heads, channels = CASES[case][1:5]
    draw = torch.Generator().manual_seed(2)
    upstream = torch.randn(batch, queries, heads * channels, generator=draw)
    return upstream.to(dtype), (value.to(dtype), *others)


def forward(case: str, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    name = "ms_deform_attn_fused" if len(tensors) == 4 else "ms_deform_attn"
    return (getattr(OPERATORS, name)(tensors[0], flat(CASES[case].levels), *tensors[1:]),)


def gradients(
    case: str, upstream: Tensor, tensors: tuple[Tensor, ...], deterministic: bool = False
) -> tuple[Tensor, ...]:
    name = "ms_deform_attn_fused" if len(tensors) == 4 else "ms_deform_attn"
    operator = getattr(OPERATORS, f"{name}_backward")
    levels = flat(CASES[case].levels)
    found: tuple[Tensor, ...] = operator(upstream, tensors[0], levels, *tensors[1:], deterministic)
    return found


def differences(found: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> str:
    """What is wrong with results, or nothing: each number within a rounding of its type and the
    rounding of places on a map of 130 pixels in float32, at the size of the largest number.
    """
    for index, (ours, theirs) in enumerate(zip(found, wanted, strict=True)):
        if ours.dtype != theirs.dtype or ours.shape != theirs.shape:
            return f"result {index} has type or shape of another"
        exact = theirs.float()
        rounding = 0.0 if ours.dtype == torch.float32 else torch.finfo(ours.dtype).eps
        allowed = rounding * exact.abs() + 5e-5 * (1 + exact.abs().max())
        wrong = ~((ours.float() - exact).abs() <= allowed)
        if wrong.any():
            first = wrong.nonzero()[0].tolist()
            return f"result {index}: {int(wrong.sum())} numbers differ, the first at {first}"
    return ""


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", CASES)
def test_every_path_on_the_gpu(
    case: str, form: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream, tensors = arguments(case, form, dtype)
    wanted = forward(case, tensors), gradients(case, upstream, tensors)
    there = upstream.cuda(), tuple(tensor.cuda() for tensor in tensors)
    wrong = {}
    for path in (CHOSEN, *PATHS):
        if path in (CHOSEN, DETERMINISTIC):
            monkeypatch.delenv(VARIABLE, raising=False)
        else:
            monkeypatch.setenv(VARIABLE, path)
        found = forward(case, there[1]) if path != DETERMINISTIC else ()
        grads = gradients(case, *there, path == DETERMINISTIC)
        if found:
            wrong[f"{path} forward"] = differences((found[0].cpu(),), wanted[0])
        grads_here = tuple(tensor.cpu() for tensor in grads)
        wrong[f"{path} gradient"] = differences(grads_here, wanted[1])
        if path == DETERMINISTIC:
            again = gradients(case, *there, True)
            same = all(torch.equal(a.cpu(), b) for a, b in zip(again, grads_here, strict=True))
            wrong["again"] = "" if same else "other bits in deterministic mode"
    assert not any(wrong.values()), {name: text for name, text in wrong.items() if text}


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES)
def test_the_forced_kernel_runs_on_the_gpu(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By PyTorch's profiler, which needs CUPTI."""
    upstream, tensors = arguments(case, "fused", torch.float32)
    there = upstream.cuda(), tuple(tensor.cuda() for tensor in tensors)
    missing = {}
    for path in PATHS:
        monkeypatch.setenv(VARIABLE, path)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            forward(case, there[1])
            gradients(case, *there, path == DETERMINISTIC)
            torch.cuda.synchronize()
        names = [event.key for event in profile.key_averages()]
        if not any("_kernel<" in name for name in names):
            pytest.skip("the profiler sees no kernels here")
        for work in KERNEL:
            kernel = kernel_of(case, path, work)
            if kernel and not any(f"::{kernel}<" in name for name in names):
                missing[f"{path}: {kernel}"] = names
    assert not missing, missing


def kernel_of(case: str, path: str, work: str) -> str | None:
    """The kernel that a forced path of a case runs; None where the host chooses."""
    kernel = KERNEL[work].get(path)
    if case == "large":  # does not fit into shared memory
        return {"staged_forward_kernel": None, "phased_kernel": "value_kernel"}.get(
            kernel or "", kernel
        )
    return kernel


LAUNCHES = """
import ctypes, json, os, sys

class Level(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in ("height", "width", "start")]

class Attention(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batch", "pixels", "heads", "channels", "queries")),
        *((name, ctypes.c_int) for name in ("num_levels", "points")),
        ("levels", Level * 8),
        ("storage", ctypes.c_int),
        *((name, ctypes.c_void_p) for name in ("value", "locations", "weights", "boxes")),
    ]

library_path, shared, processors, cases = sys.argv[1:]
library = ctypes.CDLL(library_path)
library.fake_events.restype = ctypes.c_char_p
library.fake_capability(90, int(shared), int(processors))
nowhere = 1 << 20  # an address that is never read: nothing is computed
found = {}
for name, (levels, batch, queries, heads, channels, points) in json.loads(cases).items():
    starts = [sum(h * w for h, w in levels[:i]) for i in range(len(levels) + 1)]
    rows = (Level * 8)(*(Level(h, w, s) for (h, w), s in zip(levels, starts)))
    sizes = (batch, starts[-1], heads, channels, queries, len(levels), points, rows)
    to = (ctypes.c_void_p * 5)(*[nowhere] * 5)
    for storage in (0, 2, 3):
        call = Attention(*sizes, storage, *[nowhere] * 4)
        for path in ("general", "direct", "staged", "sorted", "sorted-1", "sorted-2"):
            os.environ["RFDETR_CUDA_PATH"] = path
            works = {
                "forward": lambda: library.rfdetr_forward_launch(
                    ctypes.byref(call), ctypes.c_void_p(nowhere), None),
                "gradient": lambda: library.rfdetr_backward_launch(
                    ctypes.byref(call), ctypes.byref(to), 0, None),
                "deterministic": lambda: library.rfdetr_backward_launch(
                    ctypes.byref(call), ctypes.byref(to), 1, None),
            }
            for work, launch in works.items():
                library.fake_reset()
                assert launch() == 0, (name, storage, path, work)
                events = library.fake_events().decode().splitlines()
                launches = [event for event in events if event.startswith("launch ")]
                found[f"{name} {storage} {path} {work}"] = launches
json.dump(found, sys.stdout)
"""


@pytest.fixture(scope="module")
def launchers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The launchers on a runtime that only writes down what it is asked."""
    if CXX is None:
        pytest.skip("no g++")
    folder = tmp_path_factory.mktemp("launchers")
    proof = ROOT / "tests" / "cuda"
    plain = [CXX, "-std=c++20", "-O0", "-w", "-fPIC", "-x", "c++"]
    kernels = [KERNELS["ms_deform_attn"], KERNELS["ms_deform_attn_backward"]]
    objects = []
    for source in (*kernels, proof / "fake_runtime.cpp"):
        first = ["-include", str(proof / "recorded.h")] if source in kernels else []
        objects.append(folder / f"{source.stem}.o")
        command = [*plain, *first, "-c", str(source), "-o", str(objects[-1])]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    library = folder / "launchers.so"
    command = [CXX, "-shared", *map(str, objects), "-o", str(library)]
    subprocess.run(command, check=True)
    return library


def launch_of(launches: list[str], kernel: str) -> dict[str, int]:
    """Blocks, threads and bytes of the launch of a kernel."""
    (found,) = [line for line in launches if f"{kernel}<" in line.replace(f"_{kernel}<", "")]
    words = (word.partition("=") for word in found.split()[1:4])
    return {name: int(number) for name, _, number in words}


# bytes of shared memory that a block may ask for, multiprocessors
@pytest.mark.parametrize(
    ("shared", "processors"),
    [(227 << 10, 132), (227 << 10, 114), (227 << 10, 148)],
    ids=["H100 SXM and H200", "H100 PCIe", "B200"],
)
def test_the_calls_reach_every_kernel_in_chunks_and_tiles(
    launchers: Path, shared: int, processors: int
) -> None:
    words = [str(launchers), str(shared), str(processors), json.dumps(CASES)]
    done = subprocess.run(
        [sys.executable, "-c", LAUNCHES, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout)
    for key, launches in found.items():
        name, _, path, work = key.split()
        if work == DETERMINISTIC:
            path, work = DETERMINISTIC, "gradient"
        kernel = kernel_of(name, path, work)
        if kernel is not None:
            launch = launch_of(launches, kernel)
            if path != DETERMINISTIC and "direct" not in kernel and kernel != "forward_kernel":
                assert chunks_of(CASES[name], launch) > 1, key
            if kernel == "sorted_backward_kernel" and name != "large":
                assert tiles_of(CASES[name], launch) > 1, key


def chunks_of(case: Case, launch: dict[str, int]) -> int:
    """Chunks of the queries of a map, or fewer: a staged block may have several heads."""
    return launch["blocks"] // (case.batch * case.heads)


def tiles_of(case: Case, launch: dict[str, int]) -> int:
    """Tiles of a chunk, or fewer: the list of samples is not all of the shared memory."""
    chunk = -(-case.queries // chunks_of(case, launch))
    record = 16  # bytes of a sample
    return -(-chunk * len(case.levels) * case.points * record // launch["shared"])
