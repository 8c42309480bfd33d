"""Floating-point operations of every part of the model, from its shapes alone: 2 per multiply-add,
one image. No torch here.

There are three conventions for one model, and each reproduces a published or a measured column:
  eager   upstream's evaluation forward, which Tables 2 and 3 of the paper print: heads on every
          layer, encoder masks, all blocks
  graph   upstream's export: heads and masks of the last layer only
  deploy  what the exported subnet computes: like graph, but the first stage's box head runs on the
          chosen tokens only, and blocks after the last feature stage do not run
Matrix products and convolutions count, attention included; resizing, normalisation and sampling do
not, as in PyTorch's counter.
"""

from __future__ import annotations

import math

from .arch import Arch
from .backbone_kinds import CONVOLUTIONAL, MapShape
from .errors import InputError
from .model_config import LEVEL_SCALE, ModelConfig

CONVENTIONS = ("eager", "graph", "deploy")


def flops_by_part(model: ModelConfig, arch: Arch, convention: str = "deploy") -> dict[str, int]:
    """Part -> operations for an image of ``arch.input_hw`` px.

    Attention products stand apart from the linear maps.
    """
    if convention not in CONVENTIONS:
        raise InputError(
            f"unknown FLOPs convention {convention!r}",
            hint=f"choose one of {', '.join(CONVENTIONS)}",
        )
    blocks = max(model.feature_stages) if convention == "deploy" else model.vit_depth
    if model.backbone == CONVOLUTIONAL:
        parts = _convolutional(model, arch, stages=blocks)
    else:
        parts = _backbone(model, arch, blocks=blocks)
    parts["projector"] = sum(_projector_level(model, arch, level) for level in model.levels)
    return (
        parts
        | _selection(model, arch, convention)
        | _decoder(model, arch, convention)
        | _masks(model, arch, convention)
    )


def total_flops(model: ModelConfig, arch: Arch, convention: str = "deploy") -> int:
    """Sum of :func:`flops_by_part`."""
    return sum(flops_by_part(model, arch, convention).values())


def _level_tokens(arch: Arch, level: str) -> int:
    """Tokens on a projector level; a stride-2 convolution rounds up."""
    return math.prod(math.ceil(side * LEVEL_SCALE[level]) for side in arch.grid_hw)


def num_tokens(model: ModelConfig, arch: Arch) -> int:
    """Tokens over all projector levels."""
    return sum(_level_tokens(arch, level) for level in model.levels)


def _backbone(model: ModelConfig, arch: Arch, blocks: int) -> dict[str, int]:
    dim = model.vit_dim
    tokens = arch.tokens
    windows = arch.windows**2
    # every window has its own copies of class token and registers
    per_window = tokens // windows + model.prefix_tokens
    whole = tokens + windows * model.prefix_tokens
    # query, key, value and output, then two feed-forward maps, or three with a gate
    products = 4 + (12 if model.gated else 8)
    attention = {True: 4 * whole * whole * dim, False: windows * 4 * per_window * per_window * dim}
    return {
        "patch embedding": 2 * tokens * 3 * arch.patch**2 * dim,
        "backbone": blocks * 2 * whole * products * dim * dim,
        "backbone attention": sum(
            attention[index in model.global_blocks] for index in range(blocks)
        ),
    }


def _convolutional(model: ModelConfig, arch: Arch, stages: int) -> dict[str, int]:
    total = 0
    before = 0
    for stage in range(1, stages + 1):
        width = model.conv_widths[stage - 1]
        # four positions along each side of a patch in the first stage, half as many in the next
        pixels = math.prod(math.ceil(math.ldexp(side, 3 - stage)) for side in arch.grid_hw)
        block = 49 * width + 8 * width * width
        halving = 4 * before * width
        total += 2 * pixels * (halving + model.conv_depths[stage - 1] * block)
        before = width
    stem = 2 * 16 * arch.tokens * 3 * (arch.patch // 4) ** 2 * model.conv_widths[0]
    return {"patch embedding": stem, "backbone": total}


def _sampling(given: MapShape, level: str, arch: Arch) -> tuple[int, int]:
    """Operations that bring a map of the backbone to a level, and the channels there."""
    factor = LEVEL_SCALE[level] / given.scale
    if factor == 2:  # 2x2 transposed convolution: each output pixel sees one input pixel
        half = given.width // 2
        pixels = math.prod(math.ceil(side * given.scale) for side in arch.grid_hw)
        return 2 * 4 * pixels * given.width * half, half
    if factor == 0.5:
        return 2 * _level_tokens(arch, level) * 9 * given.width * given.width, given.width
    return 0, given.width


def _projector_level(model: ModelConfig, arch: Arch, level: str) -> int:
    hidden = model.hidden
    half = model.hidden // 2
    tokens = _level_tokens(arch, level)
    sampled = [_sampling(given, level, arch) for given in model.maps]
    sampling = sum(operations for operations, _ in sampled)
    width = sum(channels for _, channels in sampled)
    blocks = model.projector_blocks
    fusion = (
        2 * tokens * (width * hidden + 2 * blocks * 9 * half * half + (2 + blocks) * half * hidden)
    )
    return sampling + fusion


def _heads(model: ModelConfig) -> tuple[int, int]:
    """Operations per query of the class head and of the box head."""
    d = model.hidden
    return 2 * d * model.num_classes, 2 * (2 * d * d + 4 * d)


def _kept(model: ModelConfig, arch: Arch) -> int:
    return min(arch.queries, num_tokens(model, arch))


def _selection(model: ModelConfig, arch: Arch, convention: str) -> dict[str, int]:
    tokens = num_tokens(model, arch)
    kept = _kept(model, arch)
    d = model.hidden
    per_class, per_box = _heads(model)
    per_token = 2 * d * d + per_class
    if convention == "deploy":
        return {"first stage": tokens * per_token + kept * per_box}
    # upstream classifies the chosen tokens a second time
    again = kept * per_class if convention == "eager" else 0
    return {"first stage": tokens * (per_token + per_box) + again}


def _decoder(model: ModelConfig, arch: Arch, convention: str) -> dict[str, int]:
    layers = arch.decoder_layers
    queries = arch.queries
    d = model.hidden
    if not layers:
        return {}
    samples = model.cross_heads * len(model.levels) * model.points
    # self-attention, offsets and weights, output, FFN
    linear = 4 * d * d + 3 * d * samples + d * d + 2 * d * model.ffn
    per_class, per_box = _heads(model)
    return {
        "reference embedding": 2 * queries * 3 * d * d,
        # the second term: values
        "decoder": layers * 2 * (queries * linear + num_tokens(model, arch) * d * d),
        "decoder attention": layers * 4 * queries * queries * d,
        "heads": (layers if convention == "eager" else 1) * queries * (per_class + per_box),
    }


def _masks(model: ModelConfig, arch: Arch, convention: str) -> dict[str, int]:
    if not model.masks:
        return {}
    d = model.hidden
    layers = arch.decoder_layers
    pixels = math.prod(side // model.mask_stride for side in arch.input_hw)
    block = 2 * pixels * (9 * d + d * d)
    projection = 2 * pixels * d * d

    def products(queries: int) -> int:
        # query side, then its dot products
        return queries * 2 * (9 * d * d) + 2 * queries * pixels * d

    # 1.4.1, whose figures are published, leaves the encoder's maps unprojected
    encoder = products(_kept(model, arch))
    if not layers:
        return {
            "mask head": encoder
            + (projection if model.encoder_masks_projected and convention != "eager" else 0)
        }
    last = projection + products(arch.queries)
    return {
        "mask head": layers * block + (layers * last + encoder if convention == "eager" else last)
    }
