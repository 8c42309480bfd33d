"""Translation of each ATen operator of the recorded pass to ONNX (opset 17): one small function per
operator family.

Shapes are static, so every view is a Reshape to known sizes. An operator without a translation
raises an error that names the operator.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rfdetr_repro.export import plugin
from rfdetr_repro.ops.library import OPERATORS

from .graph import Graph
from .trace import Call, TraceError

aten = torch.ops.aten
Translation = Callable[[Graph, Call], "str | list[str]"]
_TABLE: dict[Any, Translation] = {}


def translate(graph: Graph, call: Call) -> None:
    """Appends the ONNX nodes of one ATen call."""
    if call.op not in _TABLE:
        raise TraceError(f"no ONNX translation for {call.op}; add one to export/onnx/aten.py")
    names = _TABLE[call.op](graph, call)
    for tensor, name in zip(call.outputs, [names] if isinstance(names, str) else names):  # noqa: B905 (later outputs may be unused)
        graph.bind(tensor, name)


def _translates(*ops: Any) -> Callable[[Translation], Translation]:
    def register(function: Translation) -> Translation:
        _TABLE.update((op, function) for op in ops)
        return function

    return register


def _args(call: Call, *defaults: Any) -> list[Any]:
    """The arguments of a call; missing arguments are filled from ``defaults``, which belong to the
    last parameters.
    """
    missing = len(call.op._schema.arguments) - len(call.args)
    return [*call.args, *defaults[len(defaults) - missing :]]


def _unary(kind: str) -> Translation:
    return lambda graph, call: graph.op(kind, [graph(call.args[0])])


for _kind, _op in {
    "Exp": aten.exp,
    "Log": aten.log,
    "Sin": aten.sin,
    "Cos": aten.cos,
    "Sqrt": aten.sqrt,
    "Neg": aten.neg,
    "Abs": aten.abs,
    "Relu": aten.relu,
    "Sigmoid": aten.sigmoid,
    "Tanh": aten.tanh,
    "Erf": aten.erf,
    "Floor": aten.floor,
}.items():
    _TABLE[_op.default] = _unary(_kind)


@_translates(aten.alias.default, aten.detach.default, aten.clone.default, aten._to_copy.default)
def _cast(graph: Graph, call: Call) -> str:
    return graph(call.args[0], call.outputs[0].dtype)


@_translates(
    aten.view.default,
    aten._unsafe_view.default,
    aten.unsqueeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
)
def _reshape(graph: Graph, call: Call) -> str:
    return graph.reshape(call.args[0], call.outputs[0])


@_translates(aten.permute.default)
def _permute(graph: Graph, call: Call) -> str:
    rank = call.args[0].dim()
    return graph.op("Transpose", [graph(call.args[0])], perm=[dim % rank for dim in call.args[1]])


@_translates(aten.transpose.int, aten.t.default)
def _transpose(graph: Graph, call: Call) -> str:
    rank = call.args[0].dim()
    first, second = (
        (dim % rank for dim in call.args[1:]) if call.op is aten.transpose.int else (0, rank - 1)
    )
    perm = list(range(rank))
    perm[first], perm[second] = second, first
    return graph.op("Transpose", [graph(call.args[0])], perm=perm)


@_translates(aten.expand.default)
def _expand(graph: Graph, call: Call) -> str:
    if call.args[0].shape == call.outputs[0].shape:
        return graph(call.args[0])
    return graph.op("Expand", [graph(call.args[0]), graph.integers(call.outputs[0].shape)])


@_translates(aten.select.int)
def _select(graph: Graph, call: Call) -> str:
    x, dim, index = call.args
    return _gather_one(graph, x, dim % x.dim(), index % x.shape[dim])


def _gather_one(graph: Graph, x: Tensor, dim: int, index: int) -> str:
    return graph.op("Gather", [graph(x), graph(index, torch.int64)], axis=dim)


@_translates(aten.unbind.int)
def _unbind(graph: Graph, call: Call) -> list[str]:
    x, dim = _args(call, 0)
    return [_gather_one(graph, x, dim % x.dim(), index) for index in range(x.shape[dim])]


@_translates(aten.slice.Tensor)
def _slice(graph: Graph, call: Call) -> str:
    x, dim, start, end, step = _args(call, 0, None, None, 1)
    if x.shape == call.outputs[0].shape:
        return graph(x)
    size = x.shape[dim]
    bounds = range(size)[slice(start, end, step)]
    limits = (bounds.start, bounds.stop, dim % x.dim(), step)
    return graph.op("Slice", [graph(x), *(graph.integers([value]) for value in limits)])


@_translates(aten.split.Tensor, aten.split_with_sizes.default)
def _split(graph: Graph, call: Call) -> list[str]:
    x, _, dim = _args(call, 0)
    sizes = [part.shape[dim] for part in call.outputs]
    name = graph.op(
        "Split", [graph(x), graph.integers(sizes)], outputs=len(sizes), axis=dim % x.dim()
    )
    return list(graph.producer[name].output)


@_translates(aten.cat.default)
def _cat(graph: Graph, call: Call) -> str:
    out = call.outputs[0]
    parts, dim = _args(call, 0)
    return graph.op("Concat", [graph(part, out.dtype) for part in parts], axis=dim % out.dim())


@_translates(aten.stack.default)
def _stack(graph: Graph, call: Call) -> str:
    out = call.outputs[0]
    tensors, dim = _args(call, 0)
    axis = dim % out.dim()
    parts = [
        graph.op("Unsqueeze", [graph(part, out.dtype), graph.integers([axis])]) for part in tensors
    ]
    return graph.op("Concat", parts, axis=axis)


def _binary(kind: str) -> Translation:
    def function(graph: Graph, call: Call) -> str:
        out = call.outputs[0]
        if call.kwargs.get("alpha", 1) != 1:
            raise TraceError(f"{call.op} with alpha")
        return graph.op(kind, [graph(operand, out.dtype) for operand in call.args[:2]])

    return function


_TABLE[aten.add.Tensor] = _binary("Add")
_TABLE[aten.sub.Tensor] = _binary("Sub")
_TABLE[aten.mul.Tensor] = _binary("Mul")
_TABLE[aten.div.Tensor] = _binary("Div")
_TABLE[aten.maximum.default] = _binary("Max")
_TABLE[aten.minimum.default] = _binary("Min")
_TABLE[aten.rsub.Scalar] = lambda graph, call: graph.op(
    "Sub", [graph(call.args[1], call.outputs[0].dtype), graph(call.args[0])]
)


@_translates(aten.div.Tensor_mode)
def _floor_divide(graph: Graph, call: Call) -> str:
    out = call.outputs[0]
    if call.kwargs.get("rounding_mode") != "floor" or out.is_floating_point():
        raise TraceError("only integer floor division is translated")
    a, b = (graph(operand, out.dtype) for operand in call.args[:2])
    # Div alone would truncate
    return graph.op("Div", [graph.op("Sub", [a, graph.op("Mod", [a, b])]), b])


@_translates(aten.clamp.default)
def _clamp(graph: Graph, call: Call) -> str:
    x, low, high = _args(call, None, None)
    return graph.op(
        "Clip",
        [graph(x), *("" if bound is None else graph(bound, x.dtype) for bound in (low, high))],
    )


@_translates(aten.where.self)
def _where(graph: Graph, call: Call) -> str:
    condition, a, b = call.args
    return graph.op(
        "Where",
        [graph(condition), graph(a, call.outputs[0].dtype), graph(b, call.outputs[0].dtype)],
    )


@_translates(aten.gather.default)
def _gather(graph: Graph, call: Call) -> str:
    x, dim, index = call.args[:3]
    return graph.op("GatherElements", [graph(x), graph(index)], axis=dim % x.dim())


@_translates(aten.index.Tensor)
def _index(graph: Graph, call: Call) -> str:
    x, indices = call.args
    given = [(dim, index) for dim, index in enumerate(indices) if index is not None]
    if len(given) != 1 or given[0][1].dtype != torch.int64:
        raise TraceError("indexing with more than one tensor, or with a mask, is not translated")
    return graph.op("Gather", [graph(x), graph(given[0][1])], axis=given[0][0])


@_translates(aten.topk.default)
def _topk(graph: Graph, call: Call) -> list[str]:
    x, k, dim, largest, ordered = _args(call, -1, True, True)
    wanted = [graph(x), graph.integers([k])]
    name = graph.op(
        "TopK", wanted, outputs=2, axis=dim % x.dim(), largest=int(largest), sorted=int(ordered)
    )
    return list(graph.producer[name].output)


@_translates(aten.amax.default)
def _amax(graph: Graph, call: Call) -> str:
    x, dims, keep = _args(call, [], False)
    return graph.op(
        "ReduceMax", [graph(x)], axes=list(dims) or list(range(x.dim())), keepdims=int(keep)
    )


@_translates(aten.sum.dim_IntList)
def _sum(graph: Graph, call: Call) -> str:
    x = call.args[0]
    dims = call.args[1]
    keep = len(call.args) > 2 and call.args[2]
    return graph.op(
        "ReduceSum", [graph(x), graph.integers(dims or range(x.dim()))], keepdims=int(keep)
    )


@_translates(aten._softmax.default)
def _softmax(graph: Graph, call: Call) -> str:
    return graph.op("Softmax", [graph(call.args[0])], axis=call.args[1])


@_translates(aten.silu.default)
def _silu(graph: Graph, call: Call) -> str:
    x = graph(call.args[0])
    return graph.op("Mul", [x, graph.op("Sigmoid", [x])])


@_translates(aten.gelu.default)
def _gelu(graph: Graph, call: Call) -> str:
    if call.kwargs.get("approximate", "none") != "none":
        raise TraceError("only exact GELU is translated")
    x = graph(call.args[0])
    dtype = call.args[0].dtype
    erf = graph.op("Erf", [graph.op("Div", [x, graph(math.sqrt(2.0), dtype)])])
    return graph.op(
        "Mul", [graph.op("Mul", [x, graph.op("Add", [erf, graph(1.0, dtype)])]), graph(0.5, dtype)]
    )


@_translates(aten.addmm.default)
def _addmm(graph: Graph, call: Call) -> str:
    bias, a, b = call.args
    stored, transposed = (b.t(), 1) if b.t().is_contiguous() and not b.is_contiguous() else (b, 0)
    if any(call.kwargs.get(name, 1) != 1 for name in ("alpha", "beta")):
        raise TraceError("addmm with alpha or beta")
    name = graph.op("Gemm", [graph(a), graph(stored), graph(bias)], transB=transposed)
    graph.flops_of[name] = 2 * call.outputs[0].numel() * a.shape[-1]
    return name


@_translates(aten.mm.default, aten.bmm.default)
def _matmul(graph: Graph, call: Call) -> str:
    a, b = call.args
    name = graph.op("MatMul", [graph(a), graph(b)])
    graph.flops_of[name] = 2 * call.outputs[0].numel() * a.shape[-1]
    return name


@_translates(aten.convolution.default)
def _convolution(graph: Graph, call: Call) -> str:
    x, weight, bias, stride, padding, dilation, transposed, _, groups = call.args
    if transposed:
        return _transposed_convolution(graph, call)
    inputs = [graph(x), graph(weight)] + ([] if bias is None else [graph(bias)])
    shape: dict[str, Any] = dict(
        kernel_shape=list(weight.shape[2:]), strides=list(stride), dilations=list(dilation)
    )
    name = graph.op("Conv", inputs, group=groups, pads=[*padding, *padding], **shape)
    graph.flops_of[name] = 2 * call.outputs[0].numel() * weight[0].numel()
    return name


def _transposed_convolution(graph: Graph, call: Call) -> str:
    x, weight, bias, stride, padding, dilation, _, output_padding, groups = call.args
    inputs = [graph(x), graph(weight)] + ([] if bias is None else [graph(bias)])
    name = graph.op(
        "ConvTranspose",
        inputs,
        group=groups,
        pads=[*padding, *padding],
        kernel_shape=list(weight.shape[2:]),
        strides=list(stride),
        dilations=list(dilation),
        output_padding=list(output_padding),
    )
    graph.flops_of[name] = 2 * x.numel() * weight[0].numel()
    return name


@_translates(aten.constant_pad_nd.default)
def _constant_pad(graph: Graph, call: Call) -> str:
    x, pads = call.args[:2]
    value = call.args[2] if len(call.args) > 2 else 0
    # PyTorch lists (before, after) from the last dimension on, ONNX all befores, then all afters
    befores = [0] * x.dim()
    afters = [0] * x.dim()
    for index in range(len(pads) // 2):
        befores[-1 - index], afters[-1 - index] = pads[2 * index], pads[2 * index + 1]
    inputs = [graph(x), graph.integers([*befores, *afters]), graph(float(value), x.dtype)]
    return graph.op("Pad", inputs, mode="constant")


@_translates(aten.native_layer_norm.default)
def _layer_norm(graph: Graph, call: Call) -> str:
    x, shape, weight, bias, epsilon = call.args
    scale = graph(torch.ones(shape, dtype=x.dtype) if weight is None else weight)
    inputs = [graph(x), scale] + ([] if bias is None else [graph(bias)])
    return graph.op("LayerNormalization", inputs, axis=-len(shape), epsilon=epsilon)


@_translates(aten._scaled_dot_product_flash_attention_for_cpu.default)
def _attention(graph: Graph, call: Call) -> str:
    query, key, value = call.args[:3]
    if any(call.args[3:]) or call.kwargs.get("attn_mask") is not None:
        raise TraceError("attention with dropout, a causal flag or a mask is not translated")
    scale = call.kwargs.get("scale") or query.shape[-1] ** -0.5
    scaled = graph.op("Mul", [graph(query), graph(scale, query.dtype)])
    scores = graph.op("MatMul", [scaled, graph.op("Transpose", [graph(key)], perm=[0, 1, 3, 2])])
    name = graph.op("MatMul", [graph.op("Softmax", [scores], axis=-1), graph(value)])
    pairs = query.shape[0] * query.shape[1] * query.shape[2] * key.shape[2]
    graph.flops_of[scores] = 2 * pairs * query.shape[3]
    graph.flops_of[name] = 2 * pairs * value.shape[3]
    return name


@_translates(OPERATORS.ms_deform_attn_fused.default)
def _plugin_node(graph: Graph, call: Call) -> str:
    """Only in a recording that does not decompose the operator."""
    value, level_sizes, *tensors = call.args
    return graph.op(
        plugin.OPERATOR,
        [graph(tensor) for tensor in (value, *tensors)],
        domain=plugin.DOMAIN,
        level_sizes=list(level_sizes),
        plugin_version=plugin.VERSION,
        plugin_namespace=plugin.DOMAIN,
    )


@_translates(aten.grid_sampler_2d.default)
def _grid_sample(graph: Graph, call: Call) -> str:
    x, grid, interpolation, padding, align = call.args
    mode = ("bilinear", "nearest")[interpolation]
    padding_mode = ("zeros", "border", "reflection")[padding]
    return graph.op(
        "GridSample",
        [graph(x), graph(grid)],
        align_corners=int(align),
        mode=mode,
        padding_mode=padding_mode,
    )


@_translates(aten.upsample_bilinear2d.default)
def _resize(graph: Graph, call: Call) -> str:
    x, _, align = call.args[:3]
    place = "align_corners" if align else "half_pixel"
    sizes = graph.integers(call.outputs[0].shape)
    return graph.op(
        "Resize", [graph(x), "", "", sizes], mode="linear", coordinate_transformation_mode=place
    )
