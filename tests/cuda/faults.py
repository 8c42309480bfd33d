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
    "host masks": [HOST, "-k", "masks and not spills"],
    "host forward": [HOST, "-k", "forward_kernel_on_the_host and float32"],
    "host paths": [HOST, "-k", "every_path_on_the_host"],
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

ATTENTION = [
    Fault(
        "sorted: no barrier between counting and scanning",
        "cuda/sorted_backward.cuh",
        "    __syncthreads();\n    block.scan();\n",
        "    block.scan();\n",
        ("threads sorted fused",),
    ),
    Fault(
        "sorted: no barrier before the totals of warps are read",
        "cuda/sorted_backward.cuh",
        "totals[warp] = before;\n    __syncthreads();\n",
        "totals[warp] = before;\n",
        ("threads sorted fused",),
    ),
    Fault(
        "sorted: no barrier before the gradients are written",
        "cuda/sorted_backward.cuh",
        "    block.sum();\n    __syncthreads();\n",
        "    block.sum();\n",
        ("threads sorted tiles",),
    ),
    Fault(
        "sorted: a place is overwritten before all lanes have read it",
        "cuda/sorted_backward.cuh",
        "        __syncwarp();",
        "",
        ("threads sorted fused",),
    ),
    Fault(
        "sorted: samples of a cell are not counted by atomics",
        "cuda/sorted_backward.cuh",
        "if (inside) atomicAdd(memory.cursor + cell, 1);",
        "if (inside) ++memory.cursor[cell];",
        ("threads sorted fused",),
    ),
    Fault(
        "sorted: samples are not placed by atomics",
        "cuda/sorted_backward.cuh",
        "memory.records[atomicAdd(memory.cursor + cell, 1)].order",
        "memory.records[memory.cursor[cell]++].order",
        ("threads sorted fused",),
    ),
    Fault(
        "sorted: the gradient of value is not summed by atomics",
        "cuda/sorted_backward.cuh",
        "if (inside[k]) atomic_add4(to.value + start + pixel[k] * row, total[k]);",
        "if (inside[k]) to.value[start + pixel[k] * row] += total[k].x, "
        "to.value[start + pixel[k] * row + 1] += total[k].y, "
        "to.value[start + pixel[k] * row + 2] += total[k].z, "
        "to.value[start + pixel[k] * row + 3] += total[k].w;",
        ("threads sorted fused",),
    ),
    Fault(
        "sorted: units of a length are not counted by atomics",
        "cuda/sorted_backward.cuh",
        "if (size % kUnit) atomicAdd(lengths + shorter_by(size), 1);",
        "if (size % kUnit) ++lengths[shorter_by(size)];",
        ("threads sorted fused",),
    ),
    Fault(
        "sorted: the gradient of a box is not summed by atomics",
        "cuda/sorted_backward.cuh",
        "        atomic_add4(to.boxes + query(q) * 4, "
        "make_float4(sums.x, sums.y, sums.w, sums.h));",
        "        to.boxes[query(q) * 4] += sums.x, to.boxes[query(q) * 4 + 1] += sums.y, "
        "to.boxes[query(q) * 4 + 2] += sums.w, to.boxes[query(q) * 4 + 3] += sums.h;",
        ("threads sorted fused",),
    ),
    Fault(
        "direct: the gradient of value is not summed by atomics",
        "cuda/direct_backward.cuh",
        "if (share[k] != 0.0f) atomic_add4(to.value + at[k], part);",
        "if (share[k] != 0.0f) to.value[at[k]] += part.x, to.value[at[k] + 1] += part.y, "
        "to.value[at[k] + 2] += part.z, to.value[at[k] + 3] += part.w;",
        ("threads direct",),
    ),
    Fault(
        "sorted: no barrier between placing and summing",
        "cuda/sorted_backward.cuh",
        "    block.scatter();\n    __syncthreads();\n",
        "    block.scatter();\n",
        ("threads sorted fused",),
    ),
    Fault(
        "direct: the gradient of value is not zeroed",
        "cuda/ms_deform_attn_backward.cu",
        "if (const cudaError_t error = fill_zero(to.value, 4 * values, stream)) return int(error);",
        "",
        ("threads direct",),
    ),
    Fault(
        "direct: a quarter of the gradient of value is zeroed",
        "cuda/ms_deform_attn_backward.cu",
        "fill_zero(to.value, 4 * values, stream)",
        "fill_zero(to.value, values, stream)",
        ("threads direct",),
    ),
    Fault(
        "direct: the gradient of a softmax without its mean",
        "cuda/direct_backward.cuh",
        "(*weight - mean)",
        "*weight",
        ("threads direct fused",),
    ),
    Fault(
        "a sum over half of a group of lanes",
        "cuda/fast.cuh",
        "  for (int bit = W / 2; bit > 0; bit /= 2) x += __shfl_xor_sync(kAllLanes, x, bit, W);",
        "  for (int bit = W / 4; bit > 0; bit /= 2) x += __shfl_xor_sync(kAllLanes, x, bit, W);",
        ("threads direct fused",),
    ),
    Fault(
        "forward: weights of two corners are exchanged",
        "cuda/fast_forward.cuh",
        "{above * blend.left, above * blend.right, below * blend.left, below * blend.right}",
        "{above * blend.right, above * blend.left, below * blend.left, below * blend.right}",
        ("threads direct",),
    ),
    Fault(
        "staged: no barrier after the copy of the maps",
        "cuda/fast_forward.cuh",
        "  __syncthreads();\n",
        "",
        ("threads staged",),
    ),
    Fault(
        "staged: the last query of a chunk is left out",
        "cuda/fast_forward.cuh",
        "  const int last = first + chunk < call.queries ? first + chunk : call.queries;",
        "  const int last = (first + chunk < call.queries ? first + chunk : call.queries) - 1;",
        ("threads staged",),
    ),
    Fault(
        "large shared memory is used without being allowed",
        "cuda/fast.cuh",
        "cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, limits.bytes);",
        "cudaSuccess;",
        ("runtime",),
    ),
    Fault(
        "32-bit indices beyond 2^31 numbers",
        "cuda/fast.cuh",
        "constexpr int64_t kMost = int64_t(1) << 30;",
        "constexpr int64_t kMost = int64_t(1) << 40;",
        ("runtime",),
    ),
    Fault(
        "packs have lost their alignment",
        "cuda/device.cuh",
        "struct alignas(sizeof(T) * V) Pack {",
        "struct Pack {",
        ("census forward",),
    ),
    Fault(
        "zeros are written on the default stream",
        "cuda/fast_gradients.cuh",
        "size_t(bytes), static_cast<cudaStream_t>(stream))",
        "size_t(bytes), nullptr)",
        ("runtime",),
    ),
    Fault(
        "general: no barriers between the phases",
        "cuda/ms_deform_attn_backward.cu",
        "if (which + 1 < Phases::kPhases) __syncthreads();",
        "",
        ("threads general",),
    ),
    Fault(
        "general: sums in shared memory are not atomic",
        "cuda/ms_deform_attn_backward.cu",
        "atomicAdd(sums + pixel * slice + lane, amount);",
        "sums[pixel * slice + lane] += amount;",
        ("threads general",),
    ),
    Fault(
        "general: blocks flush without atomics",
        "cuda/ms_deform_attn_backward.cu",
        "atomicAdd(result + i / slice * row + i % slice, sums[i]);",
        "result[i / slice * row + i % slice] += sums[i];",
        ("threads general",),
    ),
    Fault(
        "general: the last query of a chunk is left out",
        "cuda/ms_deform_attn_backward.cu",
        "last = first + chunk < problem.queries ? first + chunk : problem.queries;",
        "last = first + chunk < problem.queries ? first + chunk - 1 : problem.queries;",
        ("threads general",),
    ),
    Fault(
        "deterministic: a sum has two owners",
        "cuda/ms_deform_attn_backward.cu",
        "} else if (pixel % groups == group) {",
        "} else if (pixel % groups / 2 == group / 2) {",
        ("threads deterministic",),
    ),
    Fault(
        "general: a number of blocks beyond a launch is cut to 32 bits",
        "cuda/ms_deform_attn_backward.cu",
        "if (blocks > kMaxBlocks) return int(cudaErrorInvalidValue);",
        "",
        ("runtime",),
        times=2,
    ),
    Fault(
        "attention: errors of the forward launch are ignored",
        "cuda/ms_deform_attn.cpp",
        'STD_TORCH_CHECK(error == 0, "ms_deform_attn on CUDA: "',
        'STD_TORCH_CHECK(error != -1, "ms_deform_attn on CUDA: "',
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
