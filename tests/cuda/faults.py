"""Faults for the CUDA sources: each is a replacement of text, and the tests that may find it.

``tests/cuda/__main__.py`` puts them into a copy of the sources, one at a time.
"""

from __future__ import annotations

from fault import Fault
from faults_attention import ATTENTION

# arguments of pytest
THREADS = "tests/cuda/test_cuda_threads.py"
RUNTIME = "tests/cuda/test_cuda_runtime.py"
CENSUS = "tests/cuda/test_cuda_census.py"
HOST = "tests/ops/test_cuda_compile.py"
HOST_MASKS = "tests/ops/test_cuda_masks.py"
PATHS = (
    "direct",
    "direct fused",
    "staged",
    "sorted",
    "sorted fused",
    "sorted fused three levels",
    "sorted tiles",
    "sorted chunks",
    "sorted long units",
    "sorted many queries",
    "general",
    "general fused",
    "deterministic",
)
TESTS = {
    "host masks": [HOST_MASKS],
    "host forward": [HOST, "-k", "forward_kernel_on_the_host and float32"],
    "host paths": [HOST, "-k", "every_path_on_the_host"],
    "host infinite": [HOST, "-k", "infinite_gradients"],
    "host empty": [HOST, "-k", "of_nothing"],
    "threads masks": [THREADS, "-k", "masks"],
    "runtime": [RUNTIME, "-k", "g++-H100"],
    "runtime nvcc": [RUNTIME, "-k", "nvcc-H100"],
    "census masks": [CENSUS, "-k", "masks-90"],
    "census forward": [CENSUS, "-k", "ms_deform_attn-90"],
    **{f"threads {name}": [f"{THREADS}::test_threads_do_not_race[{name}]"] for name in PATHS},
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


BORDERS = [  # of tiles, units, chunks, warps, levels and maps
    Fault(
        "sorted: no barrier after the counters are zeroed",
        "cuda/sorted_backward.cuh",
        "memory.cursor[i] = 0;\n    __syncthreads();",
        "memory.cursor[i] = 0;",
        ("threads sorted fused",),
    ),
    Fault(
        "sorted: the last cell of a row is the first of the next",
        "cuda/sorted_backward.cuh",
        "(top_row + 1) * (size.width + 1) + left + 1;",
        "(top_row + 1) * size.width + left + 1;",
        ("threads sorted",),
    ),
    Fault(
        "sorted: all units of a crowded cell begin at its first sample",
        "cuda/sorted_backward.cuh",
        "unsigned(position + i * kUnit);",
        "unsigned(position);",
        ("threads sorted long units",),
    ),
    Fault(
        "sorted: the first unit of a crowded cell has all of its samples",
        "cuda/sorted_backward.cuh",
        "(end - from < kUnit ? end - from : kUnit)",
        "(end - from)",
        ("threads sorted long units",),
    ),
    Fault(
        "sorted: the first cell of a level belongs to the level before",
        "cuda/sorted_backward.cuh",
        "cell >= sort.first_cell[level + 1]",
        "cell > sort.first_cell[level + 1]",
        ("threads sorted fused three levels", "host paths"),
    ),
    Fault(
        "sorted: the last query of a chunk is left out",
        "cuda/sorted_backward.cuh",
        "begin + sort.chunk < call.queries ? begin + sort.chunk :",
        "begin + sort.chunk < call.queries ? begin + sort.chunk - 1 :",
        ("threads sorted chunks",),
    ),
    Fault(
        "sorted: the query of a sample is found by a reciprocal that is rounded down",
        "cuda/sorted_backward.cuh",
        "((uint64_t(1) << 32) + uint64_t(samples) - 1) / uint64_t(samples)",
        "(uint64_t(1) << 32) / uint64_t(samples)",
        ("threads sorted fused three levels", "host paths"),
    ),
    Fault(
        "sorted: a thread counts its first query again instead of the next",
        "cuda/sorted_backward.cuh",
        "if (q + int(blockDim.x) < count) next = pair_of(q + blockDim.x);  // in flight",
        "// in flight",
        ("threads sorted many queries",),
    ),
    Fault(
        "sorted: a thread writes the gradients of its first query for the next",
        "cuda/sorted_backward.cuh",
        "        if (q + int(blockDim.x) < count) next = pair_of(q + blockDim.x);\n",
        "",
        ("threads sorted many queries",),
    ),
    Fault(
        "direct: every group of a warp adds the box gradient of the warp",
        "cuda/direct_backward.cuh",
        "(whole ? int(threadIdx.x) % kWarpLanes : lane) == 0",
        "lane == 0",
        ("threads direct fused",),
    ),
    Fault(
        "direct: threads beyond the last slot write to the first",
        "cuda/fast_forward.cuh",
        "if (live) write_pack(",
        "write_pack(",
        ("threads direct",),
    ),
    Fault(
        "staged: threads beyond the last query of a chunk write to it",
        "cuda/fast_forward.cuh",
        "if (q < last) write_pack(",
        "write_pack(",
        ("threads staged",),
    ),
    Fault(
        "staged: every block copies the maps of the first heads",
        "cuda/fast_forward.cuh",
        "call.value + b * call.pixels * from_row + first_head * D;",
        "call.value + b * call.pixels * from_row;",
        ("host paths",),
    ),
    Fault(
        "a location that is no number is inside the map",
        "cuda/fast.cuh",
        "column > -1.0f && row > -1.0f && column < width && row < height;",
        "!(column <= -1.0f || row <= -1.0f || column >= width || row >= height);",
        ("host forward",),
    ),
    Fault(
        "the right column of a sample may be the first of the next row",
        "cuda/fast.cuh",
        "has_right = left + 1 < level.width,",
        "has_right = left + 1 <= level.width,",
        ("threads direct",),
    ),
]

FAULTS = [*MASKS, *REGISTRATIONS, *ATTENTION, *BORDERS]
