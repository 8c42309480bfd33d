"""What authors do to a trained detector before they measure it, done to the transformers port:
exact, and the same for all.

- parallel 3x3 and 1x1 convolutions become one, normalisation folded into it (D-FINE and RT-DETR
  call it ``deploy``);
- the deploy of D-FINE and DEIMv2 folds the normalisation after every other convolution of the
  pyramid, too;
- the first stage of D-FINE and DEIMv2 predicts the boxes of the chosen tokens only, where the port
  predicts all 8,400 and then chooses.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

# transformers' classes for a convolution with normalisation and activation
NORMALISED = ("DFineConvNormLayer", "Deimv2ConvNormLayer")


class Detector(nn.Module):
    """images float32 (B, 3, H, W) -> boxes cxcywh (B, Q, 4) in 0..1, logits (B, Q, C), of any
    detector of transformers.

    ``choose_first``: the first stage's box head runs after the choice (D-FINE, DEIMv2).
    """

    def __init__(self, library_model: nn.Module, choose_first: bool = False) -> None:
        """``library_model``: a detector of transformers."""
        super().__init__()
        self.model = library_model
        self.choose_first = choose_first

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes and logits of a batch of images."""
        with _BoxesOfChosenTokens(self.model.model) if self.choose_first else nullcontext():
            outputs = self.model(images)
        return outputs.pred_boxes, outputs.logits


class _BoxesOfChosenTokens:
    """Turns ``gather(head(tokens) + anchors, chosen)`` into ``head(gather(tokens, chosen)) +
    gather(anchors, chosen)``.

    The head works on each token alone, so the values are the same. While active, the head returns
    zeros, so that the sum is the anchors, and the first ``gather`` from a tensor of that shape adds
    what the head makes of the chosen tokens. A ``TorchFunctionMode`` would do, too, but under one
    calflops counts operators twice. Not for two threads at a time.
    """

    def __init__(self, stage: Any) -> None:
        self.head = stage.enc_bbox_head
        self.tokens: Tensor | None = None

    def __enter__(self) -> None:
        self.head.forward, self.real = self._wait, self.head.forward
        plain = torch.Tensor.gather

        def gather(tensor: Tensor, dim: int, index: Tensor) -> Tensor:
            result = plain(tensor, dim, index)
            if self.tokens is None or tensor.shape != (*self.tokens.shape[:2], 4):
                return result
            tokens, self.tokens = self.tokens, None
            return result + self.real(
                plain(tokens, 1, index[..., :1].expand(-1, -1, tokens.shape[-1]))
            )

        torch.Tensor.gather = gather  # type: ignore[method-assign,assignment]

    def __exit__(self, *error: Any) -> None:
        del torch.Tensor.gather, self.head.forward  # the classes' own again

    def _wait(self, tokens: Tensor) -> Tensor:
        self.tokens = tokens  # (B, N, d)
        return torch.zeros_like(tokens[..., :4])


def merge_parallel_convolutions(model: nn.Module) -> nn.Module:
    """Every block ``act(bn(conv3x3(x)) + bn(conv1x1(x)))`` of ``model`` becomes
    ``act(conv3x3(x))``; returns ``model``.
    """
    for parent in list(model.modules()):
        children: list[tuple[str, Any]] = list(parent.named_children())
        for name, block in children:
            if type(block).__name__.endswith("RepVggBlock") and _sides(block) == ((3, 3), (1, 1)):
                setattr(parent, name, nn.Sequential(_merged(block), block.activation))
    return model


def merge_normalisations(model: nn.Module) -> nn.Module:
    """Every layer ``act(bn(conv(x)))`` of NORMALISED in ``model`` becomes ``act(conv(x))``;
    returns ``model``.
    """
    for parent in list(model.modules()):
        children: list[tuple[str, Any]] = list(parent.named_children())
        for name, layer in children:
            if type(layer).__name__ in NORMALISED:
                weight, bias = _folded(layer.conv, layer.norm)
                setattr(
                    parent,
                    name,
                    nn.Sequential(_convolution(layer.conv, weight, bias), layer.activation),
                )
    return model


def last_layer_alone(model: Any) -> Detector:
    """transformers' D-FINE or DEIMv2 with the heads of the decoder's last layer and without those
    of the other layers, which only training reads; alters ``model``.
    """
    decoder = model.model.decoder
    last = len(decoder.layers) - 1
    for heads in (decoder.class_embed, decoder.lqe_layers):
        for index in range(last):
            heads[index] = nn.Identity()
    model.class_embed = decoder.class_embed
    model.bbox_embed = decoder.bbox_embed
    return Detector(model, choose_first=True)


def _sides(block: Any) -> tuple[Any, ...]:
    return block.conv1.conv.kernel_size, block.conv2.conv.kernel_size


def _merged(block: Any) -> nn.Conv2d:
    (large, large_bias), (small, small_bias) = (
        _folded(branch.conv, branch.norm) for branch in (block.conv1, block.conv2)
    )
    return _convolution(
        block.conv1.conv, large + nn.functional.pad(small, (1, 1, 1, 1)), large_bias + small_bias
    )


def _convolution(like: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """A convolution as ``like``, with these weights and a bias."""
    kind: Any = nn.Conv2d  # its attributes are typed wider than its arguments
    with torch.device(weight.device):
        merged: nn.Conv2d = kind(
            like.in_channels,
            like.out_channels,
            like.kernel_size,
            like.stride,
            like.padding,
            groups=like.groups,
        )
    merged.weight = nn.Parameter(weight.to(like.weight.dtype), requires_grad=False)
    merged.bias = nn.Parameter(bias.to(like.weight.dtype), requires_grad=False)
    return merged


def _folded(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of convolution and normalisation in one, float32."""
    if norm.running_var is None or norm.running_mean is None:
        raise ValueError("a normalisation without running statistics cannot be folded")
    scale = norm.weight.detach() / (norm.running_var + norm.eps).sqrt()
    return convolution.weight.detach() * scale[
        :, None, None, None
    ], norm.bias.detach() - norm.running_mean * scale
