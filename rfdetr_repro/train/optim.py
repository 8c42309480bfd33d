"""Parameter groups, learning-rate schedule and EMA (architecture facts section 9)."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rfdetr_repro.model.detector import Detector
from rfdetr_repro.ops import HAS_SPLIT_LINEAR
from rfdetr_repro.ops.device import has_tf32
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.train_config import PARTS, TrainConfig

# a block of a ViT, a stage of a ConvNeXt
_BLOCK = re.compile(r"backbone\.(?:blocks|stages)\.(\d+)\.")
# LayerScale is decayed, because upstream's names for it match none of these
_NO_DECAY = ("bias", "norm", "cls_token", "pos_embed", "patch_embed", "register_tokens")


def rate_and_decay(name: str, config: TrainConfig, last_stage: int) -> tuple[float, float]:
    """(learning rate, weight decay) of the parameter ``name`` of this package's detector, before
    any schedule.
    """
    if not name.startswith("backbone."):
        in_decoder = name.startswith("decoder.") and not name.endswith(
            ("query_feat", "refpoint_embed")
        )
        return config.lr * (config.component_decay if in_decoder else 1.0), config.weight_decay
    layers = last_stage + 1
    if block := _BLOCK.match(name):
        layer_id = int(block[1]) + 1
    else:
        layer_id = layers + 1 if name.startswith("backbone.norm") else 0
    rate = (
        config.lr_encoder
        * config.layer_decay ** (layers + 1 - layer_id)
        * config.component_decay**2
    )
    return rate, 0.0 if any(part in name for part in _NO_DECAY) else config.weight_decay


def freeze(detector: Detector, parts: Sequence[str]) -> int:
    """Excludes the parameters of ``parts`` (of :data:`PARTS`) from training, and returns their
    number.

    They get no gradient and are no parameters of the optimizer, so that neither weight decay nor
    the moving average changes them.
    """
    prefixes = tuple(prefix for part in parts for prefix in PARTS[part])
    count = 0
    for name, parameter in detector.named_parameters():
        if prefixes and name.startswith(prefixes):
            parameter.requires_grad_(False)
            count += parameter.numel()
    return count


def build_optimizer(
    modules: dict[str, nn.Module], config: TrainConfig, last_stage: int
) -> torch.optim.AdamW:
    """Fused AdamW over the parameters of ``modules`` that are trained (prefix -> module; "" for the
    detector), grouped by rate and decay (architecture facts section 9).
    """
    named = {
        prefix + name: parameter
        for prefix, module in modules.items()
        for name, parameter in module.named_parameters()
    }
    rates = {name: rate_and_decay(name, config, last_stage) for name in named}
    return adamw(named, rates, config)


def adamw(
    named: Mapping[str, nn.Parameter],
    rates: Mapping[str, tuple[float, float]],
    config: TrainConfig,
) -> torch.optim.AdamW:
    """Fused AdamW over the parameters that are trained, grouped by (learning rate, weight decay) of
    their names; every group keeps its rate as ``base_lr`` for :func:`schedule`.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in named.items():
        if parameter.requires_grad:
            groups.setdefault(rates[name], []).append(parameter)
    rows = [
        {"params": params, "lr": rate, "base_lr": rate, "weight_decay": decay}
        for (rate, decay), params in groups.items()
    ]
    return torch.optim.AdamW(rows, betas=(0.9, config.beta2), eps=1e-8, fused=True)


class Precision(NamedTuple):
    """What a training step computes in, and the reason. A type of None is float32. Losses, matching
    and boxes are float32 in any precision.
    """

    dtype: torch.dtype | None  # backbone and projector
    why: str
    decoder: torch.dtype | None = None  # two-stage selection, decoder and heads
    tf32: bool = False  # whether products of float32 numbers round to TF32; on GPUs only

    def __str__(self) -> str:
        exact = self.decoder is None and not self.tf32
        rest = "" if exact else f", {self._of_decoder} decoder"
        return f"{_word(self._of_backbone)} backbone and projector{rest} ({self.why})"

    @property
    def _of_backbone(self) -> torch.dtype | str | None:
        return "TF32" if self.dtype is None and self.tf32 else self.dtype

    @property
    def _of_decoder(self) -> str:
        return "TF32" if self.decoder is None and self.tf32 else _word(self.decoder)

    @property
    def words(self) -> str:
        """The precision in files and Records: one word where it is the same everywhere, such as
        "float32", "TF32" or "bfloat16", else such as "bfloat16 backbone, TF32 decoder".
        """
        backbone = _word(self._of_backbone)
        if backbone == self._of_decoder:
            return backbone
        return f"{backbone} backbone, {self._of_decoder} decoder"

    @property
    def stored(self) -> str:
        """The precision in the state of a run: as :attr:`words`, but where the decoder is exact
        float32, as states of earlier versions have it: the type of the backbone.
        """
        exact = self.decoder is None and not self.tf32
        return str(self.dtype) if exact else self.words


def _word(dtype: torch.dtype | str | None) -> str:
    return "float32" if dtype is None else str(dtype).removeprefix("torch.")


def precision(device: torch.device, config: TrainConfig) -> Precision:
    """What ``config.precision`` means on ``device``. ``auto``: bfloat16 in backbone and projector
    where it is fast, float16 where it is allowed and bfloat16 is slow (GPUs before 2020), else
    float32; products of float32 numbers are TF32 where the device has it.

    Raises :class:`InputError` for TF32 on a device without it.
    """
    asked = config.precision
    if asked == "float32":
        return Precision(None, "as asked")
    if asked == "tf32":
        if not has_tf32(device):
            raise InputError(
                f"precision=tf32 needs a GPU of compute capability 8.0 or more, not {device}",
                hint="choose auto, float32 or bf16",
            )
        return Precision(None, "as asked", tf32=True)
    tf32 = has_tf32(device)
    if asked == "bf16":
        return Precision(torch.bfloat16, "as asked", torch.bfloat16, tf32)
    fast, why = bfloat16_is_fast(device) if config.bfloat16 else (False, "bfloat16 is off")
    if fast:
        return Precision(torch.bfloat16, why, tf32=tf32)
    if config.float16:
        return Precision(torch.float16, f"{why}; float16 is on", tf32=tf32)
    return Precision(None, why, tf32=tf32)


def bfloat16_is_fast(device: torch.device) -> tuple[bool, str]:
    """Whether products in bfloat16 are faster than in float32 on ``device``, and the reason.

    On a CPU bfloat16 needs a matrix unit (AMX) to be faster: with vector instructions for bfloat16
    alone, autocast is slower than float32, by a factor of 1.5 to 1.7 on a Xeon with AVX512-BF16.
    The processor is queried, not timed: the answer must always be the same on one machine, because
    a resumed run could otherwise change its arithmetic with the load of the machine.
    """
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
        return fast, f"this GPU has {'' if fast else 'no '}bfloat16 units"
    if not HAS_SPLIT_LINEAR:
        return False, "this processor has no AMX unit: bfloat16 would be slower"
    if not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        return False, "this PyTorch does not use the processor's AMX unit"
    limit = next(
        (
            found
            for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
            if (found := os.environ.get(name, ""))
        ),
        "",
    )
    if limit and "AMX" not in limit.upper() and limit.upper() not in ("DEFAULT", "ALL"):
        return False, f"oneDNN is kept from the AMX unit ({limit})"
    return True, "this processor has an AMX unit"


def schedule(step: int, config: TrainConfig) -> float:
    """Factor on every rate at ``step`` (0-based): linear warm-up, then constant, then to 0 over the
    cool-down share, linearly or along half a cosine. The cosine begins after the warm-up.
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    start = config.steps * (1 - config.cooldown_share)
    if config.cooldown_form == "cosine":
        start = max(start, config.warmup_steps)
    if not config.cooldown_share or step < start:
        return 1.0
    left = max(0.0, (config.steps - step) / max(1.0, config.steps - start))
    return 0.5 * (1 - math.cos(math.pi * left)) if config.cooldown_form == "cosine" else left


class Ema:
    """Moving average of a module's state; decay_t = decay * (1 - exp(-t / tau)), where t counts
    optimizer steps. What is not a floating-point number, such as a counter, is copied.
    """

    def __init__(self, module: nn.Module, config: TrainConfig) -> None:
        """Starts from a copy of the module's state."""
        self.config = config
        self.state = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, steps_done: int) -> None:
        """Moves the average towards the module's state, after ``steps_done`` optimizer steps."""
        decay = self.config.ema_decay * (1 - math.exp(-steps_done / self.config.ema_tau))
        current = module.state_dict()
        averaged = [name for name, tensor in self.state.items() if tensor.is_floating_point()]
        torch._foreach_lerp_(
            [self.state[name] for name in averaged],
            [current[name] for name in averaged],
            1 - decay,
        )
        for name in self.state.keys() - set(averaged):
            self.state[name].copy_(current[name])

    def load(self, state: dict[str, Tensor]) -> None:
        """Replaces the average with ``state``."""
        for name, tensor in self.state.items():
            tensor.copy_(state[name])
