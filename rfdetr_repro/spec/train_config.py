"""The training recipe: steps, rates, loss weights, augmentation. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from .errors import InputError
from .ranges import check_ranges, choose, plain_digits

_MANY = 10**9

TRAIN_WHOLE = {  # field of a TrainConfig -> lowest and highest value
    "steps": (1, _MANY),
    "batch_size": (1, 2**16),
    "accumulate": (1, 2**16),
    "seed": (0, 2**63 - 1),
    "warmup_steps": (0, _MANY),
    "checkpoint_every": (1, _MANY),
    "evaluate_every": (0, _MANY),
    "patience": (0, _MANY),
}

_SHARE = (0, 1)
_WEIGHT = (0, 1e6)

TRAIN_REAL = {
    "lr": _SHARE,
    "lr_encoder": _SHARE,
    "layer_decay": (1e-6, 1),
    "component_decay": (1e-6, 1),
    "weight_decay": _SHARE,
    "beta2": (0, 1 - 1e-9),
    "cooldown_share": _SHARE,
    "clip_norm": (1e-9, 1e9),
    "ema_decay": (0, 1 - 1e-12),
    "ema_tau": (1e-9, 1e9),
    "class_weight": _WEIGHT,
    "l1_weight": _WEIGHT,
    "giou_weight": _WEIGHT,
    "mask_bce_weight": _WEIGHT,
    "mask_dice_weight": _WEIGHT,
    "dense_weight": _WEIGHT,
    "flip_probability": _SHARE,
    "crop_probability": _SHARE,
    "base_share": _SHARE,
}

_TRUTH = {"true": True, "false": False, "1": True, "0": False}  # as texts of a command line
_LATER = (
    "sampling",
    "multi_scale",
    "float16",
    "checkpoint_activations",
    "patience",
    "freeze",
    "precision",
    "compile",
    "draw_heads",
    "cooldown_form",
    "resize_on",
    "channels_last",
    "cuda_graph",
)

# What a training step computes in; losses, matching and boxes are float32 in all of them.
# auto: bfloat16 (or float16, see TrainConfig.float16) in backbone and projector where the device is
#   fast in it, float32 elsewhere, whose products are TF32 on GPUs of compute capability 8.0 or more
# float32: all of it, with exact products; tf32: all of it float32, with TF32 products
# bf16: bfloat16 in backbone, projector and decoder
PRECISIONS = ("auto", "float32", "tf32", "bf16")
# Where training pictures are cropped, resized, mirrored and normalised; the pixels are equal.
# loader: by the threads or processes that decode them; device: by the device that trains
RESIZES = ("loader", "device")
# How the rates fall in the cool-down; cosine with cooldown_share=1 is the usual cosine schedule
COOLDOWNS = ("linear", "cosine")
WARMUP_PART = 10  # of the steps of a short training
AVERAGED_PARTS = 8  # its averaged weights are those of about an eighth of the steps

# part of the detector that ``freeze`` may name -> beginnings of its parameters' names
PARTS: dict[str, tuple[str, ...]] = {
    "backbone": ("backbone.",),
    "projector": ("projector.",),
    "selection": ("selection.",),
    "decoder": ("decoder.",),
    "heads": ("class_embed.", "bbox_embed."),
    "mask_head": ("mask_head.",),
}


@dataclass(frozen=True)
class TrainConfig:
    """Training recipe. Defaults are upstream's (architecture facts section 9); presets state where
    they depart.

    Rates are per optimizer step, and ``steps`` counts optimizer steps. Raises :class:`InputError`
    for values out of range.
    """

    steps: int = 1000
    batch_size: int = 16
    accumulate: int = 1  # micro-batches per optimizer step
    seed: int = 0
    lr: float = 1e-4
    lr_encoder: float = 1.5e-4
    layer_decay: float = 0.8
    component_decay: float = 0.7
    weight_decay: float = 1e-4
    beta2: float = 0.999
    warmup_steps: int = 0
    # last part of the run, in which the rate falls to 0; the paper has no such part
    cooldown_share: float = 0.0
    clip_norm: float = 0.1
    ema_decay: float = 0.993
    ema_tau: float = 100.0
    bfloat16: bool = True  # autocast on backbone and projector
    class_weight: float = 1.0
    l1_weight: float = 5.0
    giou_weight: float = 2.0
    mask_bce_weight: float = 5.0
    mask_dice_weight: float = 5.0
    dense_weight: float = 0.0  # auxiliary per-token loss, not in the paper; 0 = off
    flip_probability: float = 0.5
    crop_probability: float = 0.5
    # part of the steps that draw the base architecture instead of a uniform one; paper: 0
    base_share: float = 0.0
    checkpoint_every: int = 500  # steps
    evaluate_every: int = 0  # steps; 0 = only at the end
    # "uniform", or "sandwich": the largest, the smallest and a random architecture in every step
    # (arXiv 1903.05134)
    sampling: str = "uniform"
    # for one fixed architecture: a random side per step, as in upstream's recipe
    multi_scale: bool = False
    float16: bool = False  # autocast with loss scaling where there are no bfloat16 instructions
    # backbone blocks run again in the backward pass: less memory, a third more work
    checkpoint_activations: bool = False
    # evaluations without a better AP before the run ends; 0: all steps. The best weights are kept
    patience: int = 0
    # parts of the detector that training leaves unchanged, of PARTS; a text such as
    # "backbone,projector" is accepted too
    freeze: tuple[str, ...] = ()
    precision: str = "auto"  # one of PRECISIONS
    # for one fixed architecture: backbone, projector and decoder compiled by torch.compile, which
    # takes minutes at the start of each session
    compile: bool = False
    resize_on: str = "loader"  # one of RESIZES
    # images in the order height, width, channels in memory, which convolutions keep
    channels_last: bool = False
    # with compile, on a GPU: what is compiled runs as CUDA graphs
    cuda_graph: bool = False
    # a step of a supernet also draws decoder layers (one at least) and queries of the space, as in
    # version 1 of the paper; False: every step trains all of them, as in version 2
    draw_heads: bool = False
    cooldown_form: str = "linear"  # one of COOLDOWNS

    def __post_init__(self) -> None:
        object.__setattr__(self, "freeze", frozen_parts(self.freeze))
        check_ranges(self, TRAIN_WHOLE, TRAIN_REAL, "the training recipe")
        choose(self.sampling, ("uniform", "sandwich"), "sampling")
        choose(self.precision, PRECISIONS, "precision")
        choose(self.cooldown_form, COOLDOWNS, "form of the cool-down")
        choose(self.resize_on, RESIZES, "place to resize on")
        self._check_cuda_graph()
        if self.precision != "auto" and (self.float16 or not self.bfloat16):
            given = "float16=true" if self.float16 else "bfloat16=false"
            raise InputError(
                f"precision={self.precision} and {given} contradict each other",
                hint="leave one of them out",
            )
        if self.patience and not self.evaluate_every:
            raise InputError(
                f"patience {self.patience} without evaluations", hint="set evaluate_every"
            )

    def _check_cuda_graph(self) -> None:
        if self.cuda_graph and not self.compile:
            raise InputError("cuda_graph=true needs compile=true", hint="set compile=true, too")
        if self.cuda_graph and self.accumulate > 1:
            raise InputError(
                "cuda_graph=true and accumulate > 1 exclude each other: a graph writes its "
                "gradients over those of the previous micro-batch",
                hint="leave one of them out",
            )

    @property
    def options(self) -> tuple[str, ...]:
        """The options of the steps beside their precision, in the words of files and Records."""
        chosen = {
            "pictures resized on the device": self.resize_on == "device",
            "channels last": self.channels_last,
            "compiled": self.compile,
            "CUDA graphs": self.cuda_graph,
        }
        return tuple(words for words, on in chosen.items() if on)

    def settings(self) -> dict[str, Any]:
        """Field -> value. Fields that were added later appear only where they differ from their
        default, so that older runs resume.
        """
        return {
            key: value
            for key, value in asdict(self).items()
            if key not in _LATER or value != getattr(TrainConfig(), key)
        }


def frozen_parts(given: Any) -> tuple[str, ...]:
    """The parts that ``given`` names, in the order of :data:`PARTS`.

    ``given``: a sequence of names, or one text with commas between the names. Raises
    :class:`InputError` for an unknown part, and if nothing would be left to train.
    """
    if isinstance(given, str):
        given = [name.strip() for name in given.split(",") if name.strip()]
    if not isinstance(given, (list, tuple, set, frozenset)):
        raise InputError(
            f"freeze = {given!r} is not a list of parts", hint=f"parts: {', '.join(PARTS)}"
        )
    for name in given:
        choose(name, PARTS, "part to freeze")
    parts = tuple(name for name in PARTS if name in given)
    if len(parts) == len(PARTS):
        raise InputError("freeze names every part, so there is nothing to train")
    return parts


def of_length(config: TrainConfig, steps: int) -> TrainConfig:
    """``config`` with this number of steps; few steps have a short warm-up and a short average of
    the weights.
    """
    return replace(
        config,
        steps=steps,
        warmup_steps=min(config.warmup_steps, steps // WARMUP_PART),
        ema_decay=min(config.ema_decay, max(0.0, 1 - AVERAGED_PARTS / steps)),
    )


def with_settings(config: TrainConfig, given: Sequence[str]) -> TrainConfig:
    """``config`` with the settings ``given``, texts like "lr=2e-4" of ``--set NAME=VALUE`` on a
    command line, which names any field.

    Raises :class:`InputError` for an unknown name, and for a value of another type.
    """
    changes: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"{text!r} is not a setting", hint="write NAME=VALUE, like lr=2e-4")
        choose(name, TrainConfig.__dataclass_fields__, "setting")
        changes[name] = _parsed(value, type(getattr(config, name)), text)
    return replace(config, **changes)


def _parsed(value: str, kind: type, text: str) -> Any:
    try:
        if kind is tuple:
            return frozen_parts(value)
        if kind in (int, float) and not plain_digits(value):
            raise ValueError(value)
        return _TRUTH[value.lower()] if kind is bool else kind(value)
    except (ValueError, KeyError) as error:
        raise InputError(f"{text!r} is not {kind.__name__}") from error
