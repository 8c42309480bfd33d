"""The CUDA kernels without a GPU: they compile for every architecture without register spills, and
the same text, compiled for the host under a small shim, gives the oracle's values and the CPU
kernels' gradients.
"""

from __future__ import annotations

import ctypes
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cuda_host import CXX, KERNELS, ROOT, compiled_for_the_host, pointer
from samples import LEVELS, flat, fused_inputs, sample_inputs

from rfdetr_repro import ops

KERNEL_COUNT = {"ms_deform_attn": 32, "ms_deform_attn_backward": 43, "masks": 8}
NVCC = shutil.which("nvcc") or next(
    (str(p) for p in [Path("/usr/local/cuda/bin/nvcc")] if p.is_file()), None
)
# Registers that a kernel may use, by what its mangled name holds; the first that fits counts. A
# multiprocessor has 65,536: blocks of 768 threads have 80, of 640 have 96, of 512 have 128.
REGISTERS = {
    r"sorted_backward_kernel\w+Li16ELi2E": 80,
    r"sorted_backward_kernel\w+Li16ELi[04]E": 96,
    r"sorted_backward_kernel": 128,
    r"staged_forward_kernelI(f|\w+Li16ELi[24]E)": 64,
    r"kernelId": 96,  # double
    "": 80,
}
A_FEW_BYTES = 40  # of registers that do not fit, read back included
STORAGE = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
MAX_LEVELS = 8


@pytest.mark.slow
@pytest.mark.skipif(NVCC is None, reason="no nvcc")
@pytest.mark.parametrize(
    "arch",
    [
        "90",
        # half a minute each
        *(
            pytest.param(arch, marks=pytest.mark.parity)
            for arch in ("75", "80", "86", "89", "100", "120")
        ),
    ],
)
@pytest.mark.parametrize("name", KERNELS)
def test_compiles_without_spills(arch: str, name: str, tmp_path: Path) -> None:
    out = str(tmp_path / "kernels.cubin")
    command = [
        NVCC,
        "-std=c++17",
        "-O3",
        "-cubin",
        f"-arch=sm_{arch}",
        "-Xptxas",
        "-v",
        str(KERNELS[name]),
        "-o",
        out,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    spills = [
        int(number) for number in re.findall(r"(\d+) bytes spill (?:stores|loads)", done.stderr)
    ]
    used = re.findall(r"function '(\w+)'.*?Used (\d+) registers", done.stderr, re.DOTALL)
    assert len(used) == KERNEL_COUNT[name] and all(number <= A_FEW_BYTES for number in spills)
    over = {
        kernel: count
        for kernel, count in used
        if int(count) > next(most for part, most in REGISTERS.items() if re.search(part, kernel))
    }
    assert not over
    assert "warning" not in done.stderr.lower()


class Level(ctypes.Structure):
    _fields_ = [("height", ctypes.c_int), ("width", ctypes.c_int), ("start", ctypes.c_int)]


class Problem(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int64) for name in ("batch", "pixels", "heads", "channels", "queries")
    ]
    _fields_ += [
        ("num_levels", ctypes.c_int),
        ("points", ctypes.c_int),
        ("levels", Level * MAX_LEVELS),
    ]


class Attention(ctypes.Structure):
    _fields_ = [("problem", Problem), ("storage", ctypes.c_int)]
    _fields_ += [(name, ctypes.c_void_p) for name in ("value", "points", "weights", "boxes")]


class Gradients(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_void_p) for name in ("upstream", "value", "points", "weights", "boxes")
    ]


@pytest.fixture(scope="module")
def host_kernels(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("host")
    forward, backward = (
        compiled_for_the_host(name, folder)
        for name in ("ms_deform_attn", "ms_deform_attn_backward")
    )
    forward.rfdetr_backward_launch = backward.rfdetr_backward_launch
    return forward


def problem_of(value: torch.Tensor, levels: list, locations: torch.Tensor) -> Problem:
    rows = []
    start = 0
    for height, width in levels:
        rows.append(Level(height, width, start))
        start += height * width
    queries = locations.shape[1]
    points = locations.shape[4]
    return Problem(*value.shape, queries, len(levels), points, (Level * MAX_LEVELS)(*rows))


def call_of(levels: list, tensors: list[torch.Tensor]) -> Attention:
    """tensors: value, points, weights and, for the fused form, boxes."""
    problem = problem_of(tensors[0], levels, tensors[1])
    boxes = tensors[3] if len(tensors) > 3 else None
    return Attention(
        problem, STORAGE[tensors[0].dtype], *(pointer(tensor) for tensor in (*tensors[:3], boxes))
    )


def host_inputs(levels: list, channels: int, dtype: torch.dtype, fused: bool) -> list[torch.Tensor]:
    value, points, weights = sample_inputs(levels, channels=channels, dtype=dtype, queries=70)
    points[0, 0, 0, 0, 0] = float("nan")
    points[0, 1, 0, 0, 0] = torch.finfo(dtype).max
    boxes = (
        [torch.rand(*points.shape[:2], 4, generator=torch.Generator().manual_seed(1)) * 0.5 + 0.2]
        if fused
        else []
    )
    wide = ops.accumulate_dtype(dtype)
    return [value, *(tensor.to(wide) for tensor in (points, weights, *boxes))]


def on_cpu(
    levels: list, tensors: list[torch.Tensor], upstream: torch.Tensor | None = None
) -> tuple[torch.Tensor, ...]:
    """Output, or gradients in the order value, points, weights, boxes, of the CPU operators (which
    have tests of their own).
    """
    value, points, weights, *boxes = tensors
    name = (
        "ms_deform_attn" + ("_fused" if boxes else "") + ("" if upstream is None else "_backward")
    )
    op = getattr(torch.ops.rfdetr, name)
    first = () if upstream is None else (upstream,)
    out = op(*first, value, flat(levels), points, *boxes, weights)
    if upstream is None:
        return (out,)
    return (out[0], out[1], out[3], out[2]) if boxes else out


FORMS = pytest.mark.parametrize("fused", [False, True], ids=["locations", "fused"])


@pytest.mark.parametrize("dtype", STORAGE, ids=str)
@pytest.mark.parametrize("levels", LEVELS, ids=str)
@pytest.mark.parametrize("channels", [16, 5])  # packs of 16 bytes; single channels
@FORMS
def test_forward_kernel_on_the_host(
    host_kernels: ctypes.CDLL, dtype: torch.dtype, levels: list, channels: int, fused: bool
) -> None:
    inputs = host_inputs(levels, channels, dtype, fused)
    out = torch.full(
        (*inputs[1].shape[:2], inputs[0].shape[2] * channels), float("nan"), dtype=dtype
    )
    call = call_of(levels, inputs)
    assert (
        host_kernels.rfdetr_forward_launch(ctypes.byref(call), ctypes.c_void_p(pointer(out)), None)
        == 0
    )
    (expected,) = on_cpu(levels, inputs)
    assert (out.double() - expected.double()).abs().max().item() <= TOLERANCE[dtype] * (
        expected.abs().max().item() + 1
    )


# Shared memory for all 16 channels of a map, for some of them, for none; and one owner per sum.
WAYS = {"shared": (101376, 0), "slices": (1600, 0), "global": (16, 0), "deterministic": (101376, 1)}


@pytest.mark.parametrize("dtype", STORAGE, ids=str)
@pytest.mark.parametrize("levels", LEVELS, ids=str)
@pytest.mark.parametrize("channels", [16, 5])
@pytest.mark.parametrize("way", WAYS)
@FORMS
def test_backward_kernels_on_the_host(
    host_kernels: ctypes.CDLL,
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    levels: list,
    channels: int,
    way: str,
    fused: bool,
) -> None:
    monkeypatch.setenv("RFDETR_TEST_SHARED", str(WAYS[way][0]))
    inputs = host_inputs(levels, channels, dtype, fused)
    upstream = torch.randn(
        *inputs[1].shape[:2], inputs[0].shape[2] * channels, dtype=torch.float64
    ).to(dtype)
    unset = [torch.full_like(tensor, float("nan")) for tensor in inputs[1:]]
    grads = [torch.zeros(inputs[0].shape, dtype=ops.accumulate_dtype(dtype)), *unset]
    call = call_of(levels, inputs)
    to = Gradients(pointer(upstream), *(pointer(tensor) for tensor in grads))
    assert (
        host_kernels.rfdetr_backward_launch(
            ctypes.byref(call), ctypes.byref(to), WAYS[way][1], None
        )
        == 0
    )
    for ours, theirs in zip(grads, on_cpu(levels, inputs, upstream), strict=True):
        assert (ours - theirs).abs().max().item() <= TOLERANCE[dtype] * (
            theirs.abs().max().item() + 1
        )


PATHS = ("", "general", "direct", "staged", "sorted", "sorted-1", "sorted-2")  # RFDETR_CUDA_PATH
PATH_CASES = {
    "pairs": ([(6, 7)], 2, 2, 16, 70, 2),
    "one query": ([(6, 7)], 1, 4, 16, 1, 2),
    "32 channels": ([(6, 5), (3, 3)], 1, 2, 32, 40, 4),
    "crowded cells": ([(1, 2)], 1, 1, 16, 150, 2),
    "five samples": ([(9, 4)], 1, 2, 16, 33, 5),
    "one sample": ([(2, 4)], 1, 3, 16, 36, 1),
    "four points": ([(6, 5), (3, 3), (2, 1)], 2, 2, 16, 40, 4),
}


@pytest.mark.parametrize("case", PATH_CASES)
@pytest.mark.parametrize("path", PATHS)
def test_every_path_on_the_host(
    host_kernels: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch, path: str, case: str
) -> None:
    """Shared memory is scarce, so that queries come in several chunks and tiles."""
    monkeypatch.setenv("RFDETR_CUDA_PATH", path)
    monkeypatch.setenv("RFDETR_TEST_SHARED", "6000")
    levels, batch, heads, channels, queries, points = PATH_CASES[case]
    draw = torch.Generator().manual_seed(len(case))
    shape = (batch, queries, heads, len(levels), points)
    pixels = sum(height * width for height, width in levels)
    inputs = [
        torch.randn(batch, pixels, heads, channels, generator=draw),
        torch.rand(*shape, 2, generator=draw) * 4 - 2,
        torch.randn(shape, generator=draw),
        torch.rand(batch, queries, 4, generator=draw) * 0.5 + 0.2,
    ]
    out = torch.full((batch, queries, heads * channels), float("nan"))
    upstream = torch.randn(out.shape, generator=draw)
    grads = [torch.full_like(tensor, float("nan")) for tensor in inputs]
    call = ctypes.byref(call_of(levels, inputs))
    to = ctypes.byref(Gradients(pointer(upstream), *(pointer(tensor) for tensor in grads)))
    assert host_kernels.rfdetr_forward_launch(call, ctypes.c_void_p(pointer(out)), None) == 0
    assert host_kernels.rfdetr_backward_launch(call, to, 0, None) == 0
    torch.testing.assert_close(out, on_cpu(levels, inputs)[0], atol=2e-5, rtol=2e-5)
    for ours, theirs in zip(grads, on_cpu(levels, inputs, upstream), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def by_grid_sample(
    levels: list, tensors: list[torch.Tensor], upstream: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """The output, and the gradients of ``tensors``, of PyTorch's ``grid_sample`` in float64."""
    exact = [tensor.double().requires_grad_() for tensor in tensors]
    value, points, weights, *boxes = exact
    if boxes:
        out = ops.ms_deform_attn_fused_reference(value, levels, points, *boxes, weights)
    else:
        out = ops.ms_deform_attn_reference(value, levels, points, weights)
    return (out.detach(), *torch.autograd.grad(out, exact, upstream.double()))


@pytest.mark.parametrize("channels", range(1, 41))
@FORMS
def test_any_head_dimension_is_that_of_grid_sample(
    host_kernels: ctypes.CDLL, channels: int, fused: bool
) -> None:
    """The CPU kernels and the CUDA kernels' text, with odd numbers of levels and points."""
    draw = random.Random(channels)
    levels = [(draw.randint(1, 7), draw.randint(1, 7)) for _ in range(draw.choice((1, 3)))]
    sizes = {"batch": draw.randint(1, 2), "heads": draw.randint(1, 3), "channels": channels}
    sizes |= {"queries": draw.randint(1, 9), "points": draw.choice((1, 3, 5, 7))}
    for dtype in (torch.float64, torch.float32):
        if fused:
            value, points, boxes, weights = fused_inputs(levels, dtype=dtype, **sizes)
            inputs = [value, points, weights, boxes]
        else:
            inputs = sample_inputs(levels, dtype=dtype, away_from_knots=True, **sizes)
        inputs = [tensor.contiguous() for tensor in inputs]
        shape = (*inputs[1].shape[:2], sizes["heads"] * channels)
        upstream = torch.randn(
            shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
        )
        upstream = upstream.to(dtype)
        found = [torch.full_like(tensor, float("nan")) for tensor in (upstream, *inputs)]
        call = ctypes.byref(call_of(levels, inputs))
        to = Gradients(pointer(upstream), *(pointer(tensor) for tensor in found[1:]))
        out = ctypes.c_void_p(pointer(found[0]))
        assert host_kernels.rfdetr_forward_launch(call, out, None) == 0
        assert host_kernels.rfdetr_backward_launch(call, ctypes.byref(to), 0, None) == 0
        on_this_cpu = (*on_cpu(levels, inputs), *on_cpu(levels, inputs, upstream))
        wanted = by_grid_sample(levels, inputs, upstream)
        for ours in (found, on_this_cpu):
            for got, expected in zip(ours, wanted, strict=True):
                error = (got.double() - expected).abs().max().item()
                assert error <= TOLERANCE[dtype] * (expected.abs().max().item() + 1)


WAYS_TO_GO = [*((path, 0) for path in PATHS), ("", 1)]  # and whether gradients are deterministic


def centred_inputs(levels: list[tuple[int, int]], fused: bool) -> list[torch.Tensor]:
    """Value, points, weights and, if fused, boxes, for a map with sides of powers of two: every
    sample is at the centre of a pixel, of neither the last row nor the last column.
    """
    ((height, width),) = levels
    draw = torch.Generator().manual_seed(0)
    shape = (2, 40, 2, 1, 2)
    column = torch.randint(width - 1, shape, generator=draw)
    row = torch.randint(height - 1, shape, generator=draw)
    points = torch.stack([(column + 0.5) / width, (row + 0.5) / height], -1)
    boxes = [torch.tensor([0.5, 0.5, 1.0, 1.0]).expand(2, 40, 4).contiguous()] if fused else []
    return [
        torch.randn(2, height * width, 2, 16, generator=draw),
        4 * points - 2 if fused else points,  # an offset is a quarter of the box
        torch.randn(shape, generator=draw),
        *boxes,
    ]


@pytest.mark.parametrize(("path", "deterministic"), WAYS_TO_GO)
@FORMS
def test_infinite_gradients_are_those_of_the_cpu(
    host_kernels: ctypes.CDLL,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    deterministic: int,
    fused: bool,
) -> None:
    """A pixel of the map whose weight is 0 gets 0 times infinity, which is NaN."""
    monkeypatch.setenv("RFDETR_CUDA_PATH", path)
    levels = [(4, 8)]
    inputs = centred_inputs(levels, fused)
    upstream = torch.randn(2, 40, 32, generator=torch.Generator().manual_seed(1))
    upstream[0, 3, 5], upstream[1, 7, 20] = float("inf"), -float("inf")
    grads = [torch.full_like(tensor, 7.0) for tensor in inputs]
    to = Gradients(pointer(upstream), *(pointer(tensor) for tensor in grads))
    call = call_of(levels, inputs)
    launched = (ctypes.byref(call), ctypes.byref(to), deterministic, None)
    assert host_kernels.rfdetr_backward_launch(*launched) == 0
    expected = on_cpu(levels, inputs, upstream)
    assert expected[0].isnan().any() and expected[0].isfinite().any()
    for ours, theirs in zip(grads, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4, equal_nan=True)


@pytest.mark.parametrize("empty", ["batch", "queries", "heads", "channels", "points"])
@pytest.mark.parametrize(("path", "deterministic"), WAYS_TO_GO)
@FORMS
def test_of_nothing_all_gradients_are_zero(
    host_kernels: ctypes.CDLL,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    deterministic: int,
    empty: str,
    fused: bool,
) -> None:
    """With a size of 0 nothing is launched that fails, and no gradient keeps old memory."""
    monkeypatch.setenv("RFDETR_CUDA_PATH", path)
    levels = LEVELS[0]
    sizes = {"channels": 16, empty: 0}
    value, points, weights = sample_inputs(levels, dtype=torch.float32, **sizes)
    boxes = [torch.rand(*points.shape[:2], 4)] if fused else []
    inputs = [value, points, weights, *boxes]
    out = torch.zeros(*points.shape[:2], value.shape[2] * value.shape[3])
    call = ctypes.byref(call_of(levels, inputs))
    assert host_kernels.rfdetr_forward_launch(call, ctypes.c_void_p(pointer(out)), None) == 0
    assert not out.any() and torch.equal(out, on_cpu(levels, inputs)[0])
    grads = [torch.full_like(tensor, float("nan")) for tensor in inputs]
    to = Gradients(pointer(out), *(pointer(tensor) for tensor in grads))
    code = host_kernels.rfdetr_backward_launch(call, ctypes.byref(to), deterministic, None)
    assert code == 0
    for ours, theirs in zip(grads, on_cpu(levels, inputs, out), strict=True):
        assert not ours.any() and torch.equal(ours, theirs)


@FORMS
def test_without_points_nothing_is_read(host_kernels: ctypes.CDLL, fused: bool) -> None:
    """Tensors without elements have no memory; the output is zero before the launch."""
    levels = LEVELS[0]
    inputs = [
        tensor[:, :, :, :, :0].contiguous() if tensor.dim() > 4 else tensor
        for tensor in host_inputs(levels, 16, torch.float32, fused)
    ]
    out = torch.zeros(*inputs[1].shape[:2], inputs[0].shape[2] * 16)
    call = call_of(levels, inputs)
    assert not call.points and not call.weights
    assert (
        host_kernels.rfdetr_forward_launch(ctypes.byref(call), ctypes.c_void_p(pointer(out)), None)
        == 0
    )
    assert not out.any()


def test_unknown_storage_is_an_error(host_kernels: ctypes.CDLL) -> None:
    host_kernels.rfdetr_cuda_error.restype = ctypes.c_char_p
    code = host_kernels.rfdetr_forward_launch(ctypes.byref(Attention(storage=9)), None, None)
    assert code != 0 and host_kernels.rfdetr_cuda_error(code) == b"invalid value"


ASKED = """
import ctypes, sys
caller = ctypes.CDLL(sys.argv[1])
before = caller.asked()
library = ctypes.CDLL(sys.argv[2])
print(before, caller.asked())
"""


@pytest.mark.skipif(CXX is None, reason="no g++")
def test_the_stream_is_found_in_a_library_with_local_symbols(tmp_path: Path) -> None:
    """Python loads PyTorch so; here the library is a double that answers 7."""
    name = "aoti_torch_get_current_cuda_stream"
    (tmp_path / "torch.cpp").write_text(f'extern "C" int {name}() {{ return 7; }}')
    caller = (
        f'#include "lookup.h"\nextern "C" int asked() {{ auto f = (int '
        f'(*)())rfdetr::torch_cuda_function("{name}");'
    )
    (tmp_path / "caller.cpp").write_text(caller + " return f ? f() : 0; }")
    libraries = {"torch": "libtorch_cuda.so", "caller": "libcaller.so"}
    for source, library in libraries.items():
        command = [
            str(CXX),
            "-shared",
            "-fPIC",
            f"-Wl,-soname,{library}",
            f"-I{ROOT / 'csrc' / 'cuda'}",
            f"{source}.cpp",
        ]
        subprocess.run([*command, "-o", library, "-ldl"], cwd=tmp_path, check=True)
    paths = [str(tmp_path / libraries[one]) for one in ("caller", "torch")]
    asked = subprocess.run(
        [sys.executable, "-c", ASKED, *paths], capture_output=True, text=True, check=True
    )
    assert asked.stdout.split() == ["0", "7"]
