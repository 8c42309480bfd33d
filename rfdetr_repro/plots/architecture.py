"""The counterpart of the paper's Figure 2: the architecture of one size, drawn from its
configuration, so that every number on the figure is one that the model is built with.
"""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import FigureBase

from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.backbone_kinds import PLAIN, kind_of
from rfdetr_repro.spec.metrics import plural
from rfdetr_repro.spec.model_config import ModelConfig

from .boxes import arrow, box, box_height_in, canvas, cell
from .layout import foot_height_in, foot_line, heading, text_width_in
from .style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILION, WIDTH_IN

_HEAD_IN = 0.42
_SIDE_IN = 0.15
_GAP_IN = 0.26  # between two boxes: an arrow
_ROW_GAP_IN = 0.34
_STRIP_IN = 0.66  # of the blocks' drawing inside the backbone
_MOST_CELLS = 40  # blocks or layers that are drawn one by one
_SIDES = {"P3": 2, "P4": 1, "P5": 0.5}  # side of a level in sides of the ViT's grid
ORIGIN = (
    "Drawn from the configuration that builds the model; the paper's Figure 2 (arXiv 2511.09554) "
    "is not copied."
)


@dataclass(frozen=True)
class _Part:
    name: str
    words: tuple[str, ...]
    color: str


def _patches(config: ModelConfig, arch: Arch) -> _Part:
    height, width = arch.input_hw
    rows, columns = arch.grid_hw
    kernel = (
        f"kernel stored at {config.patch} px, resampled to {arch.patch} px"
        if config.patch != arch.patch
        else f"kernel of {arch.patch} x {arch.patch} px"
    )
    tokens = "tokens" if kind_of(config.backbone).windows else "positions"
    return _Part(
        "Image in patches",
        (
            f"{height} x {width} px in patches of {arch.patch} px",
            f"{rows} x {columns} = {arch.tokens:,} {tokens} of width {config.vit_dim}",
            kernel,
            _positions(config, arch),
        ),
        GREY,
    )


def _positions(config: ModelConfig, arch: Arch) -> str:
    """How the backbone knows where a patch is."""
    kind = kind_of(config.backbone)
    if not kind.windows:
        return "no positions: convolutions"
    if not kind.table:
        return "positions: rotary, of the patch's centre"
    table = " x ".join(map(str, config.pos_grid_hw))
    resampled = "" if config.pos_grid_hw == arch.grid_hw else ", resampled"
    return f"positions: table of {table}{resampled}"


def _backbone(config: ModelConfig, arch: Arch) -> _Part:
    kind = kind_of(config.backbone)
    if not kind.windows:
        depths = " + ".join(map(str, config.conv_depths))
        widths = ", ".join(map(str, config.conv_widths))
        return _Part(
            f"Backbone: {kind.title}, {plural(config.vit_depth, 'stage')}",
            (f"{depths} blocks of widths {widths}; strides of 1/4, 1/2, 1 and 2 patches",),
            BLUE,
        )
    windows = arch.windows**2
    across = len([k for k in config.global_blocks if k < config.vit_depth])
    inside = config.vit_depth - across
    attend = (
        f"{plural(inside, 'block')} within {windows} windows, {across} over the whole image"
        if windows > 1
        else "one window: every block attends over the whole image"
    )
    return _Part(
        f"Backbone: {_title(config)}, {plural(config.vit_depth, 'block')}",
        (f"width {config.vit_dim}, {plural(config.vit_heads, 'head')}; {attend}",),
        BLUE,
    )


def _title(config: ModelConfig) -> str:
    if config.backbone == PLAIN:
        return "ViT"
    registers = f" with {plural(config.registers, 'register')}" if config.registers else ""
    return kind_of(config.backbone).title.replace(" with registers", "") + registers


def _projector(config: ModelConfig, arch: Arch) -> _Part:
    rows, columns = arch.grid_hw
    maps = [
        f"{level}: {int(rows * _SIDES[level])} x {int(columns * _SIDES[level])}"
        for level in config.levels
    ]
    return _Part(
        "Projector",
        (
            f"joins {plural(len(config.feature_stages), 'backbone map')}",
            f"{plural(config.projector_blocks, 'bottleneck')} per level, width {config.hidden}",
            f"levels {', '.join(maps)}" if len(maps) > 1 else f"level {maps[0]}",
        ),
        GREEN,
    )


def _selection(config: ModelConfig, arch: Arch) -> _Part:
    groups = f"training: {config.groups} groups of {config.queries} queries"
    return _Part(
        "First stage",
        (
            "each token proposes a class and a box",
            f"the {arch.queries} most confident become queries",
            groups if config.groups > 1 else f"training: {config.queries} queries",
        ),
        ORANGE,
    )


def _decoder(config: ModelConfig, arch: Arch) -> _Part:
    stored = config.decoder_layers
    run = (
        f"{arch.decoder_layers} of {plural(stored, 'layer')} run"
        if arch.decoder_layers != stored
        else f"all {plural(stored, 'layer')} run"
    )
    return _Part(
        "Decoder",
        (
            run,
            f"self-attention: {config.self_heads} heads",
            f"deformable cross-attention: {config.cross_heads} heads, {config.points} points, "
            f"{plural(len(config.levels), 'level')}",
            f"feed-forward: {config.ffn}",
        ),
        VERMILION,
    )


def _heads(config: ModelConfig, arch: Arch) -> _Part:
    height, width = arch.input_hw
    stride = config.mask_stride
    masks = (
        f"mask of {height // stride} x {width // stride}, 1/{stride} of the side"
        if config.masks
        else "no masks in this size"
    )
    return _Part(
        "Outputs per query",
        (f"{config.num_classes} class logits", "box, refined from its reference", masks),
        PURPLE,
    )


def _sizes(config: ModelConfig, arch: Arch) -> tuple[list[_Part], list[_Part], float, float]:
    """The parts of both rows, and the rows' heights in inches."""
    first = [_patches(config, arch), _backbone(config, arch)]
    second = [part(config, arch) for part in (_projector, _selection, _decoder, _heads)]
    left, right = _first_widths()
    upper = max(
        box_height_in(first[0].words, left),
        box_height_in(first[1].words, right) + _STRIP_IN,
    )
    width = _second_width(len(second))
    lower = max(box_height_in(part.words, width) for part in second)
    return first, second, upper, lower


def _first_widths() -> tuple[float, float]:
    left = 2.05
    return left, WIDTH_IN - 2 * _SIDE_IN - _GAP_IN - left


def _second_width(count: int) -> float:
    return (WIDTH_IN - 2 * _SIDE_IN - (count - 1) * _GAP_IN) / count


def architecture_height_in(config: ModelConfig, arch: Arch) -> float:
    """Height in inches of :func:`draw_architecture`."""
    _, _, upper, lower = _sizes(config, arch)
    return _HEAD_IN + upper + _ROW_GAP_IN + lower + 0.1 + foot_height_in(ORIGIN, _left())


def _left() -> float:
    return _SIDE_IN / WIDTH_IN


def draw_architecture(figure: FigureBase, config: ModelConfig, arch: Arch, name: str) -> None:
    """Draws the parts of a model with the numbers of ``config`` and ``arch``; ``name`` is the name
    of the size.
    """
    first, second, upper, lower = _sizes(config, arch)
    height = architecture_height_in(config, arch)
    axes = canvas(figure, height)
    heading(figure, f"The architecture: {name}, {arch.key}", _left())
    top = height - _HEAD_IN
    bottom = top - upper
    left, right = _first_widths()
    _draw(axes, first[0], (_SIDE_IN, bottom), (left, upper))
    x = _SIDE_IN + left
    arrow(axes, (x, bottom + upper / 2), (x + _GAP_IN, bottom + upper / 2))
    x += _GAP_IN
    _draw(axes, first[1], (x, bottom), (right, upper))
    taps = _blocks(axes, config, arch, (x + 0.1, bottom + 0.08), right - 0.2)
    below = bottom - _ROW_GAP_IN
    width = _second_width(len(second))
    _to_projector(axes, taps, bottom, (_SIDE_IN + width / 2, below))
    x = _SIDE_IN
    for number, part in enumerate(second):
        _draw(axes, part, (x, below - lower), (width, lower))
        if number + 1 < len(second):
            end = x + width
            arrow(axes, (end, below - lower / 2), (end + _GAP_IN, below - lower / 2))
        x += width + _GAP_IN
    foot_line(figure, ORIGIN, _left())


def _draw(axes: Axes, part: _Part, corner: tuple[float, float], size: tuple[float, float]) -> None:
    box(axes, corner, size, part.name, part.words, part.color)


def _blocks(
    axes: Axes, config: ModelConfig, arch: Arch, corner: tuple[float, float], width: float
) -> list[float]:
    """Draws the blocks of the ViT, filled where they attend over the whole image, and returns where
    maps are taken from, from left to right.
    """
    depth = config.vit_depth
    left, bottom = corner
    step = width / depth
    side = min(0.2, 0.8 * step)
    base = bottom + 0.1
    for number in range(depth if depth <= _MOST_CELLS else 0):
        whole = number in config.global_blocks or arch.windows == 1
        cell(axes, (left + number * step + (step - side) / 2, base), (side, 0.2), BLUE, whole)
    words = "■ over the whole image   □ within windows   ↓ map to the projector"
    if not kind_of(config.backbone).windows:
        words = "■ stage   ↓ map to the projector"
    size = 6.4
    while text_width_in(words, size) > width:
        size -= 0.1
    axes.text(left, base + 0.2 + 0.06, words, fontsize=size, color=BLACK, va="bottom")
    taps = [left + (stage - 0.5) * step for stage in sorted(config.feature_stages)]
    for tap in taps:
        axes.plot([tap, tap], [base, bottom - 0.08], color=GREEN, linewidth=1.0)
    return taps


def _to_projector(
    axes: Axes, taps: list[float], bottom: float, target: tuple[float, float]
) -> None:
    """Lines from the taps to the projector."""
    middle = bottom - 0.14
    for tap in taps:
        axes.plot([tap, tap], [bottom, middle], color=GREEN, linewidth=1.0)
    axes.plot([target[0], max(taps)], [middle, middle], color=GREEN, linewidth=1.0)
    look = {"arrowstyle": "-|>", "color": GREEN, "linewidth": 1.0, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", target, (target[0], middle), arrowprops={**look, "mutation_scale": 8})
