"""Each operator's translation gives ONNX Runtime's result = PyTorch's; what cannot be expressed
raises.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rfdetr_repro.export.onnx.aten import translate
from rfdetr_repro.export.onnx.graph import Graph
from rfdetr_repro.export.onnx.trace import TraceError, trace

aten = torch.ops.aten
X = torch.linspace(-3, 3, 48).reshape(2, 3, 8) + 0.01
MAP = torch.linspace(-1, 1, 2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
INTEGERS = torch.arange(-9, 9)
GRID = torch.linspace(-1.3, 1.3, 2 * 6 * 2).reshape(2, 3, 2, 2)
INDEX = torch.tensor([[2, 0], [1, 1]])


def run_both(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(ONNX Runtime, PyTorch) of ``function`` recorded on zeros-like data, so constants taken from
    values would show.
    """
    recorded = trace(nn.Identity(), torch.ones_like(x), lambda source: (function(source),), {})
    graph = Graph(recorded, "x")
    for call in recorded.calls:
        translate(graph, call)
    model, _ = graph.model({"y": recorded.outputs[0]}, "test")
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(["y"], {"x": x.numpy()})[0], function(x).numpy()


CASES: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {
    "unary": (
        lambda x: (
            x.abs().add(1).log()
            + x.exp().sqrt()
            - x.sin() * x.cos()
            + x.tanh()
            + x.erf()
            + x.neg()
            + x.floor()
        ),
        X,
    ),
    "activations": (lambda x: F.gelu(x) + F.silu(x) + F.relu(x) + x.sigmoid(), X),
    "scalar arithmetic": (lambda x: (2 - x) / 3 * 0.5 + x / (x * x + 1), X),
    "broadcast constant": (lambda x: x + torch.arange(8.0) * torch.ones(3, 1), X),
    "slice with step": (lambda x: x[:, -2:, 1:7:2] + 0, X),
    "slice whole": (lambda x: x[:, :, :] * 1, X),
    "select": (lambda x: x[1, -1] * 2, X),
    "unbind and stack": (lambda x: torch.stack(x.unbind(-2), dim=-1), X),
    "chunk and concatenate": (lambda x: torch.cat(x.chunk(2, -1)[::-1], dim=-1), X),
    "split sizes": (lambda x: x.split([1, 5, 2], dim=-1)[1] * 1, X),
    "transpose, permute, flatten": (lambda x: x.transpose(0, 2).permute(1, 2, 0).flatten(1), X),
    "expand": (lambda x: x[:, :1].expand(-1, 4, -1) * 1, X),
    "squeeze": (lambda x: x[:, :1].squeeze(1).unsqueeze(0) * 1, X),
    "amax": (lambda x: x.amax(-1) + x.amax(1, keepdim=True).amax((0, 1))[0], X),
    "sum": (lambda x: x.sum(-1, keepdim=True) + x.sum((0, 1)), X),
    "softmax": (lambda x: x.softmax(1), X),
    "top k": (lambda x: x.topk(2, dim=1).values * 1, X),
    "least k": (lambda x: x.topk(3, dim=-1, largest=False).indices, X),
    "gather": (lambda x: x.gather(2, INDEX[:, None].expand(-1, 3, -1)), X),
    "index by constant": (lambda x: x[:, INDEX] * 1, X),
    "index by traced": (lambda x: torch.arange(5.0)[(x.abs() + 1).long()], X),
    "floor division of negatives": (lambda x: torch.div(x, 4, rounding_mode="floor"), INTEGERS),
    "integers": (lambda x: x * 3 - x, INTEGERS),
    "clamp": (lambda x: x.clamp(-1, 2) + x.clamp(min=0) + x.clamp(max=0), X),
    "maximum": (lambda x: torch.maximum(x, -x) - torch.minimum(x, torch.tensor(0.5)), X),
    "where": (lambda x: torch.where(torch.arange(8) > 3, x, torch.zeros_like(x)), X),
    "cast": (lambda x: x.to(torch.float64) * 2, X),
    "layer norm": (
        lambda x: (
            F.layer_norm(x, (8,), torch.arange(8.0), torch.ones(8), 1e-6) + F.layer_norm(x, (3, 8))
        ),
        X,
    ),
    "linear": (lambda x: F.linear(x, torch.arange(16.0).reshape(2, 8), torch.ones(2)), X),
    "linear without bias": (lambda x: F.linear(x, torch.arange(16.0).reshape(2, 8)), X),
    "matrix products": (lambda x: x @ x.transpose(1, 2) + torch.einsum("bij,bkj->bik", x, x), X),
    "attention": (
        lambda x: F.scaled_dot_product_attention(
            *(x.reshape(1, 2, 3, 8) * s for s in (1.0, 0.5, 2.0))
        ),
        X,
    ),
    "convolution": (
        lambda x: F.conv2d(
            x, torch.arange(54.0).reshape(2, 3, 3, 3), torch.ones(2), stride=2, padding=1
        ),
        MAP,
    ),
    "depthwise": (
        lambda x: F.conv2d(x, torch.arange(27.0).reshape(3, 1, 3, 3), padding=(1, 0), groups=3),
        MAP,
    ),
    "bilinear resize": (
        lambda x: F.interpolate(x, size=(7, 6), mode="bilinear", align_corners=False),
        MAP,
    ),
    "sampling": (lambda x: F.grid_sample(x, GRID, align_corners=False), MAP),
    "sampling at traced places": (
        lambda x: F.grid_sample(
            MAP, x[:, :2, :, :2] * 1.2, padding_mode="border", align_corners=True
        ),
        MAP,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_translation(name: str) -> None:
    function, x = CASES[name]
    found, expected = run_both(function, x)
    assert found.dtype == expected.dtype and found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-5 * np.abs(expected).max())


def record(function: Callable[[Tensor], Tensor]) -> Graph:
    recorded = trace(nn.Identity(), X.clone(), lambda source: (function(source),), {})
    graph = Graph(recorded, "x")
    for call in recorded.calls:
        translate(graph, call)
    graph.model({"y": recorded.outputs[0]}, "test")
    return graph


REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "value to number": (lambda x: x * x.amax().item(), "Python number"),
    "write in place": (lambda x: x.mul(2).add_(1), "in place"),
    "independent output": (lambda x: torch.ones(2), "does not depend"),
    "output is the input": (lambda x: x, "an output is"),
    "no translation": (lambda x: x.cumsum(0), "cumsum.*add one"),
    "mask indexing": (lambda x: x[torch.tensor([True, False])], "index"),
    "float floor division": (lambda x: torch.div(x, 2, rounding_mode="floor"), "integer floor"),
    "scaled sum": (lambda x: torch.add(x, x, alpha=2), "alpha"),
    "approximate GELU": (lambda x: F.gelu(x, approximate="tanh"), "exact GELU"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_expressed_is_refused(name: str) -> None:
    function, message = REFUSED[name]
    with pytest.raises(TraceError, match=message):
        record(function)


def test_values_that_do_not_depend_on_the_input_are_constants() -> None:
    graph = record(lambda x: x * (torch.arange(8.0).sin() + torch.linspace(0, 1, 8).exp()))
    assert [node.op_type for node in graph.nodes] == ["Mul"]


def test_decompositions_replace_operators() -> None:
    table = {aten.silu.default: lambda x: x * torch.sigmoid(x)}
    recorded = trace(nn.Identity(), X.clone(), lambda source: (F.silu(source),), table)
    assert [call.op for call in recorded.calls] == [aten.sigmoid.default, aten.mul.Tensor]


def test_equal_constants_are_stored_once() -> None:
    graph = record(lambda x: x * torch.arange(8.0) + torch.arange(8.0))
    assert len(graph.initializers) == 1


def test_chains_of_reshapes_become_one() -> None:
    recorded = trace(
        nn.Identity(),
        X.clone(),
        lambda source: (source.reshape(6, 8).reshape(48).reshape(4, 12),),
        {},
    )
    graph = Graph(recorded, "x")
    for call in recorded.calls:
        translate(graph, call)
    model, _ = graph.model({"y": recorded.outputs[0]}, "test")
    assert [node.op_type for node in model.graph.node] == ["Reshape"]
