"""Random linear layers, the error of a product, and the ways in which a weight changes."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from rfdetr_repro.model.linear import Linear


def example(rows: int, inputs: int, outputs: int) -> tuple[Tensor, Tensor, Tensor]:
    """x, weight and bias."""
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, inputs, generator=generator)
    weight = torch.randn(outputs, inputs, generator=generator)
    return x, weight / inputs**0.5, torch.randn(outputs, generator=generator)


def error(found: Tensor, exact: Tensor) -> float:
    """The root of the mean squared error."""
    return float((found.double() - exact).square().mean().sqrt())


def changed_layers(x: Tensor) -> Iterator[tuple[str, Linear]]:
    """A layer that has computed ``x`` and whose weight has changed since, once for each way in
    which a weight changes.
    """
    outputs, inputs = 96, x.shape[1]
    layer = Linear(inputs, outputs)
    for change in ("in place", "load", "data", "copy"):
        with torch.inference_mode():
            layer(x)
        with torch.no_grad():
            if change == "in place":
                layer.weight.mul_(2)
            elif change == "load":
                layer.load_state_dict(Linear(inputs, outputs).state_dict())
            elif change == "data":
                layer.weight.data = torch.randn(outputs, inputs)
            else:
                layer = copy.deepcopy(layer)
                layer.weight.add_(1)
        yield change, layer
