"""The feed-forward network in strips: values and gradients of the plain formulation, whatever the
rows.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from rfdetr_repro.model import feed_forward as module
from rfdetr_repro.model.feed_forward import feed_forward
from rfdetr_repro.model.linear import Linear


@pytest.mark.parametrize("rows", [1, 7, 33, 64])
@pytest.mark.parametrize("width", [64, 50])
def test_strips_give_the_plain_gradients(
    rows: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STRIP_BYTES", 4 * 96 * 16)  # sixteen rows
    torch.manual_seed(0)
    first = Linear(width, 96)
    second = Linear(96, width)
    x = torch.randn(2, rows, width, requires_grad=True)
    arguments = [x, first.weight, first.bias, second.weight, second.bias]
    out = feed_forward(x, first, second)
    wide = [tensor.detach().double().requires_grad_() for tensor in arguments]
    expected = F.linear(F.relu(F.linear(wide[0], *wide[1:3])), *wide[3:])
    torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=1e-5)
    upstream = torch.randn_like(out)
    ours = torch.autograd.grad(out, arguments, upstream)
    for a, b in zip(ours, torch.autograd.grad(expected, wide, upstream.double()), strict=True):
        torch.testing.assert_close(a.double(), b, atol=2e-5, rtol=1e-4)


def test_hidden_activations_are_not_kept() -> None:
    first = Linear(32, 256)
    second = Linear(256, 32)
    x = torch.randn(50, 32, requires_grad=True)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: (kept.append(t.numel()), t)[1], lambda t: t
    ):
        feed_forward(x, first, second)
    assert kept and max(kept) < 50 * 256


def test_plain_under_autocast_and_in_float64() -> None:
    first = Linear(32, 64)
    second = Linear(64, 32)
    x = torch.randn(5, 32)
    with torch.autocast("cpu", torch.bfloat16):
        assert feed_forward(x, first, second).dtype == torch.bfloat16
    assert torch.autograd.gradcheck(
        lambda t: feed_forward(t, first.double(), second.double()), x.double().requires_grad_()
    )
