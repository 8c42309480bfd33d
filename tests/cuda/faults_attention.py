"""Faults of the attention's kernels, apart from those at borders."""

from __future__ import annotations

from fault import Fault

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
