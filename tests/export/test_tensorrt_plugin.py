"""The TensorRT plugin of the attention without a GPU: it is compiled against TensorRT's headers,
and the part of TensorRT that holds plugins (plugin_registry.cpp) makes, stores, restores and runs
it. The kernel behind it is the CUDA kernel's text compiled for the host. It has never run on a GPU.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from samples import fused_inputs

from rfdetr_repro import ops

ROOT = Path(__file__).resolve().parents[2]
HEADERS = os.environ.get("RFDETR_TENSORRT_INCLUDE", "")
NVCC = shutil.which("nvcc") or next(
    (str(path) for path in [Path("/usr/local/cuda/bin/nvcc")] if path.is_file()), None
)
MISSING = (
    "RFDETR_TENSORRT_INCLUDE names no folder with NvInfer.h"
    if not (HEADERS and Path(HEADERS, "NvInfer.h").is_file())
    else ("" if NVCC and shutil.which("g++") else "no nvcc or no g++")
)
pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)

FLOAT, HALF, INT32, BF16 = 0, 1, 3, 7  # of nvinfer1::DataType
FIELD_FLOAT, FIELD_INT32, FIELD_INT64 = 1, 5, 10  # of nvinfer1::PluginFieldType
LINEAR, CHW2 = 0, 1  # of nvinfer1::TensorFormat
TYPES = {torch.float32: FLOAT, torch.float16: HALF, torch.bfloat16: BF16}
TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
LEVELS = [(7, 5), (4, 3), (2, 2)]
FLAT = [side for size in LEVELS for side in size]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The double of TensorRT with the plugin's library opened."""
    folder = tmp_path_factory.mktemp("plugin")
    shared = ["-std=c++17", "-O0", "-Xcompiler", "-fPIC,-Wall,-Wno-deprecated-declarations"]
    against = [str(NVCC), *shared, "-isystem", HEADERS]
    shim = str(ROOT / "tests" / "ops" / "cuda_host_shim.h")
    kernel = ["g++", "-std=c++17", "-O0", "-w", "-fPIC", "-x", "c++", "-include", shim]
    jobs = [
        [*against, "-c", str(ROOT / "csrc" / "tensorrt" / "ms_deform_attn.cpp"), "-o", "plugin.o"],
        [*kernel, "-c", str(ROOT / "csrc" / "cuda" / "ms_deform_attn.cu"), "-o", "kernel.o"],
        [*against, "-c", str(Path(__file__).with_name("plugin_registry.cpp")), "-o", "registry.o"],
    ]
    running = [subprocess.Popen(job, cwd=folder, stderr=subprocess.PIPE, text=True) for job in jobs]
    for job in running:
        _, errors = job.communicate()
        assert job.returncode == 0, errors
    for objects, name in (
        (("plugin.o", "kernel.o"), "plugin.so"),
        (("registry.o",), "registry.so"),
    ):
        subprocess.run(["g++", "-shared", *objects, "-o", name, "-ldl"], cwd=folder, check=True)
    library = ctypes.CDLL(str(folder / "registry.so"))
    for function in ("make", "restored", "cloned"):
        getattr(library, function).restype = ctypes.c_void_p
    for function in ("last_message", "open_library", "output_shape"):
        getattr(library, function).restype = ctypes.c_char_p
    told = library.open_library(str(folder / "plugin.so").encode())
    assert told == b"ms_deform_attn_fused 1 rfdetr level_sizes", told
    return library


def made(registry: ctypes.CDLL, sizes: Sequence[int], kind: int = FIELD_INT32) -> Any:
    """A plugin for levels of these sizes, or None."""
    number = ctypes.c_int64 if kind == FIELD_INT64 else ctypes.c_int32
    return registry.make(b"level_sizes", (number * len(sizes))(*sizes), kind, len(sizes))


def described(tensors: Sequence[torch.Tensor]) -> Any:
    """Axes and sides of each tensor, 9 numbers each."""
    rows = [[one.dim(), *one.shape, *[0] * (8 - one.dim())] for one in tensors]
    return (ctypes.c_int64 * 45)(*(number for row in rows for number in row))


def ran(
    registry: ctypes.CDLL, plugin: Any, inputs: Sequence[torch.Tensor], output: torch.Tensor
) -> int:
    kinds = {**TYPES, torch.int32: INT32}
    types = (ctypes.c_int * 5)(*(kinds[one.dtype] for one in (*inputs, output)))
    pointers = (ctypes.c_void_p * 4)(*(one.data_ptr() for one in inputs))
    return registry.run(
        ctypes.c_void_p(plugin),
        described([*inputs, output]),
        types,
        pointers,
        ctypes.c_void_p(output.data_ptr()),
    )


def inputs_of(dtype: torch.dtype) -> list[torch.Tensor]:
    """value, offsets, boxes and logits in the order of the plugin."""
    value, offsets, boxes, logits = fused_inputs(
        dtype=torch.float32, levels=LEVELS, batch=2, queries=5, heads=2, channels=16, points=2
    )
    return [
        value.to(dtype).contiguous(),
        offsets.contiguous(),
        boxes.contiguous(),
        logits.contiguous(),
    ]


@pytest.mark.parametrize("dtype", list(TYPES), ids=str)
@pytest.mark.parametrize("kind", [FIELD_INT32, FIELD_INT64], ids=["int32", "int64"])
def test_a_restored_plugin_computes_the_operator(
    registry: ctypes.CDLL, dtype: torch.dtype, kind: int
) -> None:
    """The sizes of the levels, the only field, survive that an engine is stored and copied."""
    inputs = inputs_of(dtype)
    plugin = registry.restored(ctypes.c_void_p(made(registry, FLAT, kind)))
    copy = registry.cloned(ctypes.c_void_p(plugin))
    registry.destroy(ctypes.c_void_p(plugin))
    output = torch.full((2, 5, 32), float("nan"), dtype=dtype)
    assert ran(registry, copy, inputs, output) == 0, registry.last_message()
    registry.destroy(ctypes.c_void_p(copy))
    value, *rest = inputs
    expected = ops.ms_deform_attn_fused_reference(
        value.double(), LEVELS, *(one.double() for one in rest)
    )
    assert torch.allclose(output.double(), expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ([], "pairs"),
        ([4], "pairs"),
        ([4, 4, 4], "pairs"),
        ([1] * 18, "pairs"),
        ([0, 4], "impossible size"),
        ([-1, 4], "impossible size"),
        ([1 << 25, 1], "impossible size"),
        ([1 << 20, 1 << 20], "2^31"),
    ],
)
def test_wrong_fields_make_no_plugin(registry: ctypes.CDLL, sizes: list[int], reason: str) -> None:
    assert made(registry, sizes) is None
    assert reason in registry.last_message().decode()


def test_fields_of_another_name_or_type_make_no_plugin(registry: ctypes.CDLL) -> None:
    sizes = (ctypes.c_int32 * 2)(4, 4)
    assert registry.make(b"sizes", sizes, FIELD_INT32, 2) is None
    assert b"level_sizes is missing" in registry.last_message()
    assert registry.make(b"level_sizes", sizes, FIELD_FLOAT, 2) is None
    assert b"whole numbers" in registry.last_message()


def test_shape_and_type_of_the_output(registry: ctypes.CDLL) -> None:
    plugin = ctypes.c_void_p(made(registry, FLAT))

    def shape(value: str, logits: str) -> bytes:
        names = ((*text.encode().split(), None) for text in (value, logits))
        arrays = [(ctypes.c_char_p * len(sides))(*sides) for sides in names]
        return registry.output_shape(plugin, *arrays)

    assert shape("B S M D", "B Q M L P") == b"B Q M*D"
    assert shape("B S M", "B Q M L P") == b""
    for kind in TYPES.values():
        assert registry.output_type(plugin, (ctypes.c_int * 4)(kind, FLOAT, FLOAT, FLOAT)) == kind
    registry.destroy(plugin)


def test_formats(registry: ctypes.CDLL) -> None:
    """Everything is linear; the output has the type of value, and the rest is float32."""
    plugin = ctypes.c_void_p(made(registry, FLAT))

    def taken(types: Sequence[int], formats: Sequence[int] = (LINEAR,) * 5) -> list[bool]:
        given = (ctypes.c_int * 5)(*types), (ctypes.c_int * 5)(*formats)
        return [bool(registry.supports(plugin, position, *given)) for position in range(5)]

    for kind in TYPES.values():
        assert all(taken([kind, FLOAT, FLOAT, FLOAT, kind]))
    assert taken([INT32, FLOAT, FLOAT, FLOAT, FLOAT]) == [False, True, True, True, False]
    assert taken([HALF, HALF, HALF, HALF, FLOAT]) == [True, False, False, False, False]
    for position in range(5):
        formats = [CHW2 if at == position else LINEAR for at in range(5)]
        assert taken([FLOAT] * 5, formats) == [at != position for at in range(5)]
    registry.destroy(plugin)


def test_shapes_that_do_not_fit_are_refused_before_anything_is_read(registry: ctypes.CDLL) -> None:
    plugin = made(registry, FLAT)
    value, offsets, boxes, logits = inputs_of(torch.float32)
    output = torch.zeros(2, 5, 32)
    wrong = {
        "pixels of value": ([value[:, 1:].contiguous(), offsets, boxes, logits], output, 1),
        "levels": ([value, offsets[:, :, :, :2], boxes, logits[:, :, :, :2]], output, 1),
        "images or queries": ([value, offsets, boxes[:, 1:], logits], output, 1),
        "images or heads": ([value[:, :, :1], offsets, boxes, logits], output, 1),
        "different sizes": ([value, offsets[:, 1:], boxes, logits], output, 1),
        "axes": ([value[0], offsets, boxes, logits], output, 1),
        "output has another shape": ([value, offsets, boxes, logits], output[:, 1:], 2),
        "boxes and logits must be float32": ([value, offsets, boxes.half(), logits], output, 2),
        "value must be": ([value.int(), offsets, boxes, logits], output, 2),
    }
    for reason, (inputs, target, refused) in wrong.items():
        assert ran(registry, plugin, inputs, target) == refused, reason
        assert reason in registry.last_message().decode(), registry.last_message()
    assert ran(registry, plugin, [value, offsets, boxes, logits], output) == 0
    registry.destroy(ctypes.c_void_p(plugin))
