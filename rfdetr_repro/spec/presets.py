"""Model sizes and campaigns as rows. A size is never a class; add a row.

Released sizes follow architecture facts section 1 (upstream 1.4.1, checked against Tables 7 and 8);
``pico`` is a size of this project, for CPUs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from .arch import Arch, SearchSpace
from .errors import InputError
from .model_config import ModelConfig
from .train_config import TrainConfig


@dataclass(frozen=True)
class Preset:
    """A named size: tensor shapes, and the architecture that runs by default."""

    model: ModelConfig
    arch: Arch
    note: str = ""


def _small(
    resolution: int,
    layers: int,
    *,
    patch: int = 16,
    windows: int = 2,
    queries: int = 300,
    masks: bool = False,
) -> Preset:
    model = ModelConfig(
        decoder_layers=layers,
        queries=queries,
        masks=masks,
        patch=patch,
        pos_grid=resolution // patch,
    )
    return Preset(model, Arch(resolution, patch, windows, layers, queries))


def _wide(
    resolution: int,
    layers: int,
    *,
    patch: int = 20,
    windows: int = 2,
    note: str = "released weights: PML licence",
) -> Preset:
    """ViT-B family: every width of the S family doubled."""
    preset = _small(resolution, layers, patch=patch, windows=windows)
    wide = replace(
        preset.model, vit_dim=768, vit_heads=12, hidden=512, self_heads=16, cross_heads=32, points=4
    )
    return Preset(wide, preset.arch, note)


_NANO = _small(384, 2)
_BASE = ModelConfig(
    decoder_layers=3,
    patch=14,
    pos_grid=37,
    feature_stages=(2, 5, 8, 11),
    global_blocks=(2, 5, 8, 11),
)

PRESETS: dict[str, Preset] = {
    "nano": _NANO,
    "small": _small(512, 3),
    "medium": _small(576, 4),
    "large": _small(704, 4),
    "xlarge": _wide(700, 5, windows=1),
    "2xlarge": _wide(880, 5),
    "max": _wide(828, 6, patch=12, windows=1, note="in the paper only (Table 7)"),
    "base": Preset(
        _BASE, Arch(560, 14, 4, 3, 300), note="legacy; positions always interpolated 37 -> 40"
    ),
    "large-deprecated": Preset(
        replace(
            _BASE,
            vit_dim=768,
            vit_heads=12,
            hidden=384,
            self_heads=12,
            cross_heads=24,
            points=4,
            levels=("P3", "P5"),
        ),
        Arch(560, 14, 4, 3, 300),
        note="2025 Large, replaced by large; two pyramid levels",
    ),
    "seg-preview": _small(432, 4, patch=12, queries=200, masks=True),
    "seg-nano": _small(312, 4, patch=12, windows=1, queries=100, masks=True),
    "seg-small": _small(384, 4, patch=12, queries=100, masks=True),
    "seg-medium": _small(432, 5, patch=12, queries=200, masks=True),
    "seg-large": _small(504, 5, patch=12, queries=300, masks=True),
    "seg-xlarge": _small(624, 6, patch=12, masks=True),
    "seg-2xlarge": _small(768, 6, patch=12, masks=True),
    "seg-max": _small(890, 6, patch=10, windows=1, masks=True),  # in the paper only (Table 8)
}

# Sizes of the paper's tables: name -> letter there. From XL on the backbone is DINOv2-B.
SIZE_LETTERS = {
    "nano": "N",
    "small": "S",
    "medium": "M",
    "large": "L",
    "xlarge": "XL",
    "2xlarge": "2XL",
    "max": "Max",
}
NAMES_OF_LETTERS = {letter.upper(): name for name, letter in SIZE_LETTERS.items()}


def wide(size: str) -> bool:
    """Whether a size of :data:`SIZE_LETTERS` has the wider backbone."""
    return PRESETS[size].model.vit_dim > PRESETS["nano"].model.vit_dim


# Steps 3 to 9 of the paper's ablation (Table 5), from LW-DETR M with a DINOv2 backbone to RF-DETR
# M; step 10 repeats step 9, and
# steps 4 and 5 change the training only. Position tables are as large as the grid: 40 x 40 at patch
# 14, too.
_STEP_3 = Preset(replace(_BASE, pos_grid=40), Arch(560, 14, 4, 3, 300))
ABLATION: dict[int, Preset] = {
    **dict.fromkeys((3, 4, 5), _STEP_3),
    6: Preset(replace(_BASE, patch=16, pos_grid=40), Arch(640, 16, 4, 3, 300)),
    7: Preset(replace(_BASE, patch=16, pos_grid=36), Arch(576, 16, 4, 3, 300)),
    8: Preset(replace(_BASE, patch=16, pos_grid=36), Arch(576, 16, 2, 3, 300)),
    **dict.fromkeys((9, 10), PRESETS["medium"]),
}

# The paper's space: 11 x 7 x 3 x 7 x 4 = 6,468 grid points (v2 Appendix A). Of its 231 backbones 10
# round to the size of another,
# so 221 backbones and 6,188 architectures are distinct; each is drawn and searched once.
PAPER_SPACE = SearchSpace(
    tuple(range(320, 961, 64)),
    (8, 10, 12, 16, 20, 24, 32),
    (1, 2, 4),
    tuple(range(7)),
    (50, 100, 200, 300),
)

# The supernet behind it: 6 layers, 300 queries, DINOv2's 14-pixel kernel, a table for 960 / 8
# positions per side.
PAPER_SUPERNET = Preset(
    replace(_NANO.model, decoder_layers=6, patch=14, pos_grid=120), Arch(576, 16, 2, 6, 300)
)
PAPER_SUPERNET_SEG = replace(PAPER_SUPERNET, model=replace(PAPER_SUPERNET.model, masks=True))

# Small enough to learn something from scratch in minutes on two CPU cores
# (docs/method/pico.md).
PICO = Preset(
    ModelConfig(
        vit_dim=192,
        vit_heads=3,
        vit_depth=4,
        layer_scale=False,
        feature_stages=(1, 2, 3, 4),
        global_blocks=(2,),
        hidden=128,
        self_heads=4,
        cross_heads=8,
        ffn=512,
        decoder_layers=2,
        queries=25,
        groups=4,
        num_classes=18,
        masks=True,
        mask_stride=8,
        pos_grid=16,
        proposal_side=0.2,
    ),
    Arch(128, 16, 1, 2, 25),
    note="trained from scratch; not a released size",
)
PICO_SPACE = SearchSpace((96, 128, 160), (12, 16, 20), (1, 2), (0, 1, 2), (10, 15, 25))
PICO_TRAIN = TrainConfig(
    steps=4000,
    batch_size=8,
    lr=7e-4,
    lr_encoder=7e-4,
    layer_decay=1.0,
    component_decay=1.0,
    beta2=0.99,
    warmup_steps=50,
    cooldown_share=0.25,
    ema_decay=0.997,
    dense_weight=1.0,
    base_share=0.5,
    mask_bce_weight=1.0,
    mask_dice_weight=1.0,
    crop_probability=0.0,
    evaluate_every=1000,
)

# From the weights that come with the package (PICO_WEIGHTS) on: what is left to learn is the data
# set at hand.
PICO_TUNE = replace(
    PICO_TRAIN, steps=400, lr=2e-4, lr_encoder=2e-4, cooldown_share=1.0, evaluate_every=200
)
# On a data set of the user's own: rates that learn new classes in a few hundred steps
# (docs/method/pico.md).
PICO_OWN = replace(PICO_TUNE, lr=4e-4, lr_encoder=4e-4, cooldown_share=0.5)
PICO_WEIGHTS = Path(__file__).resolve().parents[1] / "weights" / "pico.safetensors"


def preset(name: str) -> Preset:
    """The preset called ``name``. Raises :class:`InputError`, which lists the known presets, for an
    unknown name.
    """
    rows = {
        **PRESETS,
        "pico": PICO,
        "paper-supernet": PAPER_SUPERNET,
        "paper-supernet-seg": PAPER_SUPERNET_SEG,
    }
    if name not in rows:
        raise InputError(f"unknown size {name!r}", hint=f"choose one of {', '.join(rows)}")
    return rows[name]


def parse_arch(name: str) -> Arch:
    """The architecture of a key, such as r384-p16-w2-d2-q300, or of a size's name."""
    return Arch.parse(name) if name.startswith("r") and "-" in name else preset(name).arch
