"""Faults for the CUDA sources: each is a replacement of text, and the tests that may find it.

``tests/cuda/__main__.py`` puts them into a copy of the sources, one at a time.
"""

from __future__ import annotations

from typing import NamedTuple


class Fault(NamedTuple):
    """``old`` stands in ``file`` under csrc/ exactly ``times`` times and becomes ``new``.
    ``found_by`` names tests of TESTS, in the order in which they are tried.
    """

    name: str
    file: str
    old: str
    new: str
    found_by: tuple[str, ...]
    times: int = 1


# arguments of pytest
THREADS = "tests/cuda/test_cuda_threads.py"
RUNTIME = "tests/cuda/test_cuda_runtime.py"
CENSUS = "tests/cuda/test_cuda_census.py"
HOST = "tests/ops/test_cuda_compile.py"
TESTS = {
    "host masks": [HOST, "-k", "masks and not spills"],
    "threads masks": [THREADS, "-k", "masks"],
    "runtime": [RUNTIME, "-k", "g++-H100"],
    "runtime nvcc": [RUNTIME, "-k", "nvcc-H100"],
    "census masks": [CENSUS, "-k", "masks-90"],
}

MASKS = [
    Fault(
        "masks: weight of the low column for the high one",
        "cuda/masks.cu",
        "__fmul_rn(__fadd_rn(1, -high_weight), a)",
        "__fmul_rn(high_weight, a)",
        ("host masks",),
    ),
    Fault(
        "masks: a zero corner counts as positive",
        "cuda/masks.cu",
        "least >= kTiny",
        "least >= 0",
        ("host masks",),
    ),
    Fault(
        "masks: NaN corners decide",
        "cuda/masks.cu",
        " && sum == sum",
        "",
        ("host masks",),
    ),
    Fault(
        "masks: infinite corners decide",
        "cuda/masks.cu",
        "constexpr float kHuge = 3e38f,",
        "constexpr float kHuge = INFINITY,",
        ("host masks",),
    ),
    Fault(
        "masks: small cells taken for large ones",
        "cuda/masks.cu",
        "< kColumns - 2.05f",
        "< kColumns + 2.05f",
        ("host masks",),
    ),
    Fault(
        "masks: lost alignment of groups",
        "cuda/masks.cu",
        "Index(reinterpret_cast<uintptr_t>(out) % kGroup)",
        "Index(0)",
        ("host masks",),
    ),
    Fault(
        "masks: rows of different alignment in one thread",
        "cuda/masks.cu",
        "width % 8 == 0 ? 0 : (width % 4 == 0 ? 1 : (width % 2 == 0 ? 2 : 3))",
        "width % 8 == 0 ? 0 : (width % 4 == 0 ? 1 : 2)",
        ("host masks",),
    ),
    Fault(
        "masks: pixels stored byte by byte",
        "cuda/masks.cu",
        "*reinterpret_cast<uint64_t*>(out + x) = word;",
        "for (int i = 0; i < kGroup; ++i) out[x + i] = uint8_t(word >> (8 * i));",
        ("census masks",),
    ),
    Fault(
        "masks: fused products",
        "cuda/masks.cu",
        "return __fadd_rn(__fmul_rn(__fadd_rn(1, -high_weight), a), __fmul_rn(high_weight, b));",
        "return (1 - high_weight) * a + high_weight * b;",
        ("census masks",),
    ),
    Fault(
        "masks: 32-bit indices whatever the size",
        "cuda/masks.cu",
        "const bool narrow = fits_32_bits(*masks, plan);",
        "const bool narrow = true;",
        ("runtime",),
    ),
    Fault(
        "masks: a number of blocks beyond a launch is cut to 32 bits",
        "cuda/masks.cu",
        "if (blocks > kMaxBlocks) return int(cudaErrorInvalidValue);",
        "",
        ("runtime",),
    ),
    Fault(
        "masks: the last, incomplete band of rows is left out",
        "cuda/masks.cu",
        "plan.bands = ceil_div(masks.out_height, plan.rows << plan.period_bits);",
        "plan.bands = masks.out_height / (plan.rows << plan.period_bits) + "
        "(masks.out_height < (plan.rows << plan.period_bits));",
        ("host masks",),
    ),
    Fault(
        "masks: bytes before the row are written",
        "cuda/masks.cu",
        "begin = x < 0 ? 0 : x,",
        "begin = x,",
        ("host masks", "threads masks"),
    ),
    Fault(
        "masks: the row below is read beyond the map",
        "cuda/masks.cu",
        "high = low < view.height - 1 ? low + 1 : low;",
        "high = low + 1;",
        ("host masks",),
    ),
    Fault(
        "masks: the corners of the first row of cells are kept for the next",
        "cuda/masks.cu",
        "cell_end = low < view.height - 1 ? float(high) : INFINITY;",
        "cell_end = float(high + 1);",
        ("host masks",),
    ),
    Fault(
        "masks: the result of the launch is not asked for",
        "cuda/masks.cu",
        "return int(cudaGetLastError());",
        "return 0;",
        ("runtime",),
    ),
]

REGISTRATIONS = [
    Fault(
        "every launch on the default stream",
        "cuda/launch.cuh",
        "static_cast<cudaStream_t>(stream)",
        "static_cast<cudaStream_t>(nullptr)",
        ("runtime nvcc",),
    ),
    Fault(
        "masks: no device guard",
        "cuda/masks.cpp",
        "const torch::stable::accelerator::DeviceGuard guard(logits.get_device_index());",
        "",
        ("runtime",),
    ),
    Fault(
        "masks: on the default stream",
        "cuda/masks.cpp",
        "current_stream(logits.get_device_index()))",
        "nullptr)",
        ("runtime",),
    ),
    Fault(
        "masks: errors of the launch are ignored",
        "cuda/masks.cpp",
        "STD_TORCH_CHECK(error == 0,",
        "STD_TORCH_CHECK(error != -1,",
        ("runtime",),
    ),
    Fault(
        "attention: no device guard in the forward pass",
        "cuda/ms_deform_attn.cpp",
        "  const DeviceGuard guard(inputs.value.get_device_index());\n  Tensor output",
        "  Tensor output",
        ("runtime",),
    ),
    Fault(
        "attention: no device guard in the backward pass",
        "cuda/ms_deform_attn.cpp",
        "  const DeviceGuard guard(inputs.value.get_device_index());\n  const ScalarType type",
        "  const ScalarType type",
        ("runtime",),
    ),
    Fault(
        "attention: the backward pass on the default stream",
        "cuda/ms_deform_attn.cpp",
        "void* stream = current_stream(inputs.value.get_device_index());",
        "void* stream = nullptr;",
        ("runtime",),
    ),
    Fault(
        "the stream of device 0 for every device",
        "cuda/stream.h",
        "getter(device, &stream)",
        "getter(0, &stream)",
        ("runtime",),
    ),
    Fault(
        "no current stream is no error",
        "cuda/stream.h",
        'STD_TORCH_CHECK(getter(device, &stream) == 0, "PyTorch has no current CUDA stream");',
        "getter(device, &stream);",
        ("runtime",),
    ),
]

FAULTS = [*MASKS, *REGISTRATIONS]
