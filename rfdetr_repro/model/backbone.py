"""The interface between a backbone and the rest of the detector.

A backbone takes images, a patch and a number of windows per side, and returns one map per feature
stage, with the channels and the side that ``ModelConfig.maps`` states. What depends on the
architecture (patch kernel, positions) is a pure function of the stored weights, so that one set of
weights serves every architecture, and :meth:`Backbone.sliced` cuts it out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.model_config import ModelConfig


class Backbone(nn.Module, ABC):
    """Base of the backbones; ``patch_embed`` is a convolution of the image without padding, into
    which exports fold the normalisation.
    """

    patch_embed: nn.Conv2d

    def __init__(self, config: ModelConfig) -> None:
        """A backbone of the kind and sizes of ``config``."""
        super().__init__()
        self.config = config
        # blocks keep only their input and run again in the backward pass
        self.checkpoint_activations = False

    @abstractmethod
    def forward(self, images: Tensor, patch: int, windows: int) -> list[Tensor]:
        """(B, 3, H, W), H and W divisible by patch * windows -> one map (B, C, h, w) per feature
        stage, ascending; C and h / (H / patch) are those of ``config.maps``.
        """

    @abstractmethod
    def sliced(self, arch: Arch) -> dict[str, Tensor]:
        """The parameters that a subnet of ``arch`` stores in another form than this backbone, by
        their names here.
        """

    def run(self, block: nn.Module, *inputs: object) -> Tensor:
        """``block(*inputs)``; in training with ``checkpoint_activations``, the block's activations
        are computed again in the backward pass instead of being kept.
        """
        if self.checkpoint_activations and torch.is_grad_enabled():
            again: Tensor = checkpoint(
                block, *inputs, use_reentrant=False, preserve_rng_state=False
            )
            return again
        found: Tensor = block(*inputs)
        return found


def init_normal(tensor: Tensor, std: float) -> None:
    """Fills ``tensor`` with normal numbers of mean 0; does nothing on the meta device.

    There ``normal_`` imports PyTorch's compiler, which takes as long as PyTorch itself, and a model
    that is loaded from a file is first described on this device.
    """
    if not tensor.is_meta:
        nn.init.normal_(tensor, std=std)


def init_products(module: nn.Module) -> None:
    """Random weights of linear maps and convolutions below ``module``, whose outputs keep about a
    third of the variance of their inputs; biases are 0.
    """
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Conv2d)):
            fan_in = part.weight[0].numel()
            init_normal(part.weight, 0.6 / fan_in**0.5)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
