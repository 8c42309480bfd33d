"""Parameter groups, learning-rate schedule and EMA (architecture facts section 9)."""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor, nn

from ..config import TrainConfig
from ..model.detector import Detector

_BLOCK = re.compile(r"backbone\.blocks\.(\d+)\.")
_NO_DECAY = ("bias", "norm", "cls_token", "pos_embed", "patch_embed")  # LayerScale is decayed, as upstream's naming makes it


def rate_and_decay(name: str, config: TrainConfig, last_stage: int) -> tuple[float, float]:
    """(learning rate, weight decay) of one of our parameters, before any schedule."""
    if not name.startswith("backbone."):
        in_decoder = name.startswith("decoder.") and not name.endswith(("query_feat", "refpoint_embed"))
        return config.lr * (config.component_decay if in_decoder else 1.0), config.weight_decay
    layers = last_stage + 1
    if block := _BLOCK.match(name):
        layer_id = int(block[1]) + 1
    else:
        layer_id = layers + 1 if name.startswith("backbone.norm") else 0
    rate = config.lr_encoder * config.layer_decay ** (layers + 1 - layer_id) * config.component_decay**2
    return rate, 0.0 if any(part in name for part in _NO_DECAY) else config.weight_decay


def build_optimizer(modules: dict[str, nn.Module], config: TrainConfig, last_stage: int) -> torch.optim.AdamW:
    """Fused AdamW over the parameters of ``modules`` (prefix -> module; "" for the detector), grouped by rate and decay."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for prefix, module in modules.items():
        for name, parameter in module.named_parameters():
            groups.setdefault(rate_and_decay(prefix + name, config, last_stage), []).append(parameter)
    rows = [{"params": params, "lr": rate, "base_lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]
    return torch.optim.AdamW(rows, betas=(0.9, config.beta2), eps=1e-8, fused=True)


def autocast_dtype(device: torch.device, config: TrainConfig) -> torch.dtype | None:
    """What backbone and projector compute in: bfloat16 where the device has instructions for it, float16 where it is allowed
    and they are missing (GPUs before 2020), else None for float32."""
    if config.bfloat16 and bfloat16_is_fast(device):
        return torch.bfloat16
    return torch.float16 if config.float16 else None


def bfloat16_is_fast(device: torch.device) -> bool:
    """Whether the device has bfloat16 instructions (elsewhere autocast would be slower than float32)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def schedule(step: int, config: TrainConfig) -> float:
    """Factor on every rate at ``step`` (0-based): linear warm-up, constant, linear fall to 0 over the cool-down share."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    start = config.steps * (1 - config.cooldown_share)
    if not config.cooldown_share or step < start:
        return 1.0
    return max(0.0, (config.steps - step) / (config.steps - start))


class Ema:
    """Moving average of a detector's state; decay_t = decay * (1 - exp(-t / tau)), t = optimizer steps so far."""

    def __init__(self, detector: Detector, config: TrainConfig) -> None:
        self.config = config
        self.state = {name: tensor.detach().clone() for name, tensor in detector.state_dict().items()}

    @torch.no_grad()
    def update(self, detector: Detector, steps_done: int) -> None:
        decay = self.config.ema_decay * (1 - math.exp(-steps_done / self.config.ema_tau))
        current = detector.state_dict()
        torch._foreach_lerp_(list(self.state.values()), [current[name] for name in self.state], 1 - decay)

    def load(self, state: dict[str, Tensor]) -> None:
        for name, tensor in self.state.items():
            tensor.copy_(state[name])
