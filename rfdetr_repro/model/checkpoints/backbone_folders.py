"""Backbones in folders of Hugging Face transformers: ``config.json`` and ``model.safetensors``.

Read are ``dinov2``, ``dinov2_with_registers``, ``dinov3_vit``, ``convnext`` and
``dinov3_convnext``. The configuration gives the fields of a :class:`ModelConfig`; names are
translated, and projections of query, key and value are joined. A setting that changes what the
weights mean and that is not implemented here is refused by its name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rfdetr_repro.model.detector import Detector
from rfdetr_repro.model.vit import resample_patch_kernel, resample_positions
from rfdetr_repro.spec.backbone_kinds import PLAIN, REGISTERS, ROTARY
from rfdetr_repro.spec.backbones import conv_fields, name_of_fields, vit_fields, with_backbone
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import sha256_file
from rfdetr_repro.spec.presets import Preset
from rfdetr_repro.spec.ranges import choose

from .container import CONFIG_JSON, read_container
from .native import check_numbers

WEIGHTS = "model.safetensors"
_RULES = tuple[tuple[re.Pattern[str], str], ...]
# parts of classifiers and of pretraining that a detector does not read
_UNREAD = re.compile(r"(.*\.)?(mask_token|classifier\.(weight|bias)|rope_embeddings\..*)")


def _rules(*rows: tuple[str, str]) -> _RULES:
    return tuple((re.compile(pattern), replacement) for pattern, replacement in rows)


# name in a file -> name in a backbone here; {part} is q, k or v, which are joined
_DINOV2 = _rules(
    (r"embeddings\.(cls_token|register_tokens)", r"\1"),
    (r"embeddings\.position_embeddings", r"pos_embed"),
    (r"embeddings\.patch_embeddings\.projection\.(.+)", r"patch_embed.\1"),
    (r"encoder\.layer\.(\d+)\.attention\.attention\.(q|k|v)\w+\.(.+)", r"blocks.\1.attn.\2.\3"),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense\.(.+)", r"blocks.\1.attn.proj.\2"),
    (r"encoder\.layer\.(\d+)\.mlp\.(fc\d\..+)", r"blocks.\1.\2"),
    (r"encoder\.layer\.(\d+)\.layer_scale(\d)\.lambda1", r"blocks.\1.scale\2"),
    (r"encoder\.layer\.(\d+)\.(norm\d\..+)", r"blocks.\1.\2"),
    (r"layernorm\.(.+)", r"norm.\1"),
)
_DINOV3 = _rules(
    (r"embeddings\.(cls_token|register_tokens)", r"\1"),
    (r"embeddings\.patch_embeddings\.(.+)", r"patch_embed.\1"),
    (r"layer\.(\d+)\.attention\.(q|k|v)_proj\.(.+)", r"blocks.\1.attn.\2.\3"),
    (r"layer\.(\d+)\.attention\.o_proj\.(.+)", r"blocks.\1.attn.proj.\2"),
    (r"layer\.(\d+)\.mlp\.up_proj\.(.+)", r"blocks.\1.mlp.fc1.\2"),
    (r"layer\.(\d+)\.mlp\.gate_proj\.(.+)", r"blocks.\1.mlp.gate.\2"),
    (r"layer\.(\d+)\.mlp\.down_proj\.(.+)", r"blocks.\1.mlp.fc2.\2"),
    (r"layer\.(\d+)\.layer_scale(\d)\.lambda1", r"blocks.\1.scale\2"),
    (r"layer\.(\d+)\.(norm\d\..+)", r"blocks.\1.\2"),
    (r"norm\.(.+)", r"norm.\1"),
)
_CONVNEXT = _rules(
    (r"embeddings\.patch_embeddings\.(.+)", r"patch_embed.\1"),
    (r"embeddings\.layernorm\.(.+)", r"patch_norm.\1"),
    (r"stages\.(\d+)\.downsampling_layer\.0\.(.+)", r"stages.\1.halving.norm.\2"),
    (r"stages\.(\d+)\.downsampling_layer\.1\.(.+)", r"stages.\1.halving.conv.\2"),
    (r"stages\.(\d+)\.layers\.(\d+)\.dwconv\.(.+)", r"stages.\1.blocks.\2.depthwise.\3"),
    (r"stages\.(\d+)\.layers\.(\d+)\.layernorm\.(.+)", r"stages.\1.blocks.\2.norm.\3"),
    (r"stages\.(\d+)\.layers\.(\d+)\.pwconv(\d)\.(.+)", r"stages.\1.blocks.\2.fc\3.\4"),
    (r"stages\.(\d+)\.layers\.(\d+)\.layer_scale_parameter", r"stages.\1.blocks.\2.scale"),
    (r"hidden_states_norms\.stage(\d+)\.(.+)", r"norms.\1.\2"),
    (r"layernorm\.(.+)", r"norms.4.\1"),
)
_DINOV3_CONVNEXT = _rules(
    (r"stages\.0\.downsample_layers\.0\.(.+)", r"patch_embed.\1"),
    (r"stages\.0\.downsample_layers\.1\.(.+)", r"patch_norm.\1"),
    (r"stages\.(\d+)\.downsample_layers\.0\.(.+)", r"stages.\1.halving.norm.\2"),
    (r"stages\.(\d+)\.downsample_layers\.1\.(.+)", r"stages.\1.halving.conv.\2"),
    (r"stages\.(\d+)\.layers\.(\d+)\.depthwise_conv\.(.+)", r"stages.\1.blocks.\2.depthwise.\3"),
    (r"stages\.(\d+)\.layers\.(\d+)\.layer_norm\.(.+)", r"stages.\1.blocks.\2.norm.\3"),
    (r"stages\.(\d+)\.layers\.(\d+)\.pointwise_conv(\d)\.(.+)", r"stages.\1.blocks.\2.fc\3.\4"),
    (r"stages\.(\d+)\.layers\.(\d+)\.gamma", r"stages.\1.blocks.\2.scale"),
    (r"layer_norm\.(.+)", r"norms.4.\1"),
)


@dataclass(frozen=True)
class _Layout:
    """How transformers stores one type of model.

    ``defaults``: settings of config.json that are left out where they have these values;
    ``only``: settings with the only value that is implemented here; ``wrappers``: beginnings of
    names that are cut.
    """

    fields: Callable[[Mapping[str, Any]], dict[str, Any]]
    rules: _RULES
    defaults: dict[str, Any]
    only: dict[str, Any]
    wrappers: tuple[str, ...] = ()


def _dinov2(config: Mapping[str, Any]) -> dict[str, Any]:
    registers = config["num_register_tokens"]
    return vit_fields(
        REGISTERS if registers else PLAIN,
        config["hidden_size"],
        config["num_attention_heads"],
        config["num_hidden_layers"],
        registers=registers,
    )


def _dinov3(config: Mapping[str, Any]) -> dict[str, Any]:
    gated = config["use_gated_mlp"]
    act = "silu" if gated else "gelu"
    if config["hidden_act"] != act:
        raise _unimplemented("hidden_act", config["hidden_act"], act)
    if config["intermediate_size"] != 4 * config["hidden_size"]:
        raise _unimplemented(
            "intermediate_size", config["intermediate_size"], 4 * config["hidden_size"]
        )
    return vit_fields(
        ROTARY,
        config["hidden_size"],
        config["num_attention_heads"],
        config["num_hidden_layers"],
        registers=config["num_register_tokens"],
        gated=gated,
        rope_theta=float(config["rope_theta"]),
    )


def _convnext(config: Mapping[str, Any]) -> dict[str, Any]:
    scaled = config["layer_scale_init_value"] > 0
    return conv_fields(tuple(config["depths"]), tuple(config["hidden_sizes"]), layer_scale=scaled)


_VIT_ONLY = {"num_channels": 3, "hidden_act": "gelu", "mlp_ratio": 4, "qkv_bias": True}
_CONV_DEFAULTS = {
    "depths": [3, 3, 9, 3],
    "hidden_sizes": [96, 192, 384, 768],
    "layer_scale_init_value": 1e-6,
}
_DINOV2_DEFAULTS = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
_SWIGLU = {"use_swiglu_ffn": False, "layer_norm_eps": 1e-6}

LAYOUTS: dict[str, _Layout] = {
    "dinov2": _Layout(
        _dinov2,
        _DINOV2,
        {**_DINOV2_DEFAULTS, "num_register_tokens": 0},
        {**_VIT_ONLY, **_SWIGLU},
        ("dinov2.",),
    ),
    "dinov2_with_registers": _Layout(
        _dinov2,
        _DINOV2,
        {**_DINOV2_DEFAULTS, "num_register_tokens": 4},
        {**_VIT_ONLY, **_SWIGLU},
        ("dinov2_with_registers.",),
    ),
    "dinov3_vit": _Layout(
        _dinov3,
        _DINOV3,
        {
            "hidden_size": 384,
            "num_hidden_layers": 12,
            "num_attention_heads": 6,
            "intermediate_size": 1536,
            "num_register_tokens": 0,
            "use_gated_mlp": False,
            "hidden_act": "gelu",
            "rope_theta": 100.0,
        },
        {
            "num_channels": 3,
            "query_bias": True,
            "key_bias": False,
            "value_bias": True,
            "proj_bias": True,
            "mlp_bias": True,
            "layer_norm_eps": 1e-5,
        },
        ("dinov3_vit.", "model."),
    ),
    "convnext": _Layout(
        _convnext,
        _CONVNEXT,
        _CONV_DEFAULTS,
        {"num_channels": 3, "hidden_act": "gelu", "patch_size": 4, "num_stages": 4},
        ("convnext.", "encoder."),
    ),
    "dinov3_convnext": _Layout(
        _convnext,
        _DINOV3_CONVNEXT,
        _CONV_DEFAULTS,
        {"num_channels": 3, "hidden_act": "gelu", "layer_norm_eps": 1e-6},
        ("dinov3_convnext.", "model."),
    ),
}


@dataclass(frozen=True)
class BackboneFolder:
    """A backbone in a folder: the fields of a :class:`ModelConfig`, the tensors by their names in
    a backbone here, and the SHA-256 of the file with the weights.
    """

    path: Path
    fields: dict[str, Any]
    tensors: dict[str, Tensor]
    sha256: str

    @property
    def name(self) -> str:
        """The name of the backbone, or its kind where the sizes are of no name."""
        return name_of_fields(self.fields)


def read_backbone(folder: str | Path) -> BackboneFolder:
    """The backbone in a folder that transformers wrote.

    Raises :class:`InputError` for a folder without configuration or weights, for another type of
    model, and for settings that are not implemented.
    """
    folder = Path(folder)
    weights = _weights_of(folder)
    content = read_container(weights)
    config = content.get(CONFIG_JSON, {})
    try:
        layout = LAYOUTS[choose(config.get("model_type"), LAYOUTS, "type of model")]
        fields = _fields(layout, config)
        tensors = _joined(_translated(content["model"], layout))
    except InputError as error:
        raise error.at(folder) from error
    return BackboneFolder(folder, fields, tensors, sha256_file(weights))


def _weights_of(folder: Path) -> Path:
    """``model.safetensors`` of the folder; raises :class:`InputError` for what is missing."""
    if not folder.is_dir():
        raise InputError(
            "not a folder", folder, f"give the folder that holds {CONFIG_JSON} and {WEIGHTS}"
        )
    if not (folder / CONFIG_JSON).is_file():
        raise InputError(
            f"the folder holds no {CONFIG_JSON}",
            folder,
            "give a folder as transformers' save_pretrained writes it",
        )
    if not (folder / WEIGHTS).is_file():
        index = (folder / f"{WEIGHTS}.index.json").is_file()
        pickled = (folder / "pytorch_model.bin").is_file()
        hint = (
            "save the model again with max_shard_size='50GB'"
            if index
            else "save the model again as safetensors"
            if pickled
            else "download the weights into the folder"
        )
        raise InputError(f"a backbone without weights: the folder holds no {WEIGHTS}", folder, hint)
    return folder / WEIGHTS


def _unimplemented(name: str, found: object, known: object) -> InputError:
    return InputError(
        f"{name}={found!r} in {CONFIG_JSON} (implemented: {known!r})",
        hint="this setting changes what the weights mean and is not implemented here",
    )


def _fields(layout: _Layout, config: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in layout.only.items():
        if config.get(name, value) != value:
            raise _unimplemented(name, config[name], value)
    known = {
        name: value if config.get(name) is None else config[name]
        for name, value in layout.defaults.items()
    }
    for name, value in known.items():
        if not _alike(value, layout.defaults[name]):
            raise InputError(f"{name}={value!r} in {CONFIG_JSON} is of another type")
    try:
        return layout.fields(known)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise InputError(f"{CONFIG_JSON} holds values that cannot be used ({error})") from error


def _alike(value: object, default: object) -> bool:
    """Whether a value of config.json has the type of the setting's default."""
    if isinstance(default, list):
        return (
            isinstance(value, list)
            and len(value) == 4
            and all(_alike(one, default[0]) for one in value)
        )
    if isinstance(default, bool):
        return isinstance(value, bool)
    if isinstance(default, int):
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if isinstance(default, float):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        return math.isfinite(value)
    return isinstance(value, type(default))


def _translated(state: Mapping[str, Tensor], layout: _Layout) -> dict[str, Tensor]:
    tensors = {}
    for name, tensor in state.items():
        short = name
        for wrapper in layout.wrappers:
            short = short.removeprefix(wrapper)
        if _UNREAD.fullmatch(short):
            continue
        ours = _name(short, layout.rules)
        if ours is None:
            raise InputError(
                f"{name} is not a parameter of this type of model",
                hint="give a folder with the backbone alone, as save_pretrained writes it",
            )
        tensors[ours] = tensor
    return tensors


def _name(name: str, rules: _RULES) -> str | None:
    for pattern, replacement in rules:
        match = pattern.fullmatch(name)
        if match:
            return match.expand(replacement)
    return None


_PART = re.compile(r"(.+\.attn)\.([qkv])\.(weight|bias)")


def _joined(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with the weights of query, key and value as one, and their biases too where all
    three have one; where keys have none, biases are apart.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    found = {}
    for name, tensor in tensors.items():
        match = _PART.fullmatch(name)
        if match is None:
            found[name] = tensor
        else:
            parts.setdefault(f"{match[1]} {match[3]}", {})[match[2]] = tensor
    for place, by_part in parts.items():
        stem, kind = place.split()
        if by_part.keys() == {"q", "k", "v"}:
            found[f"{stem}.qkv.{kind}"] = torch.cat([by_part[part] for part in "qkv"])
        else:
            found.update({f"{stem}.{part}_{kind}": tensor for part, tensor in by_part.items()})
    return found


@torch.no_grad()
def detector_with(row: Preset, folder: BackboneFolder, seed: int) -> tuple[Detector, Preset, str]:
    """A detector of the size ``row`` with the backbone of ``folder`` and its weights, its preset,
    and a sentence on what had to change with the backbone; everything else has random weights from
    ``seed``.

    The patch kernel and the positions are resampled to the sides that ``row`` stores (FlexiViT,
    and bicubically). Raises :class:`InputError` for weights that do not fit the configuration of
    the folder, and for a patch that the backbone cannot have.
    """
    try:
        row, told = with_backbone(row, folder.fields)
    except InputError as error:
        raise error.at(folder.path) from error
    # allocate nothing before the file is known to hold what its configuration describes
    with torch.device("meta"):
        described = Detector(row.model, row.arch).backbone.state_dict()
    try:
        weights = _fitted(folder, described, row.model.pos_grid_hw)
    except InputError as error:
        raise error.at(folder.path) from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        detector = Detector(row.model, row.arch)
    detector.backbone.load_state_dict(weights)
    return detector.eval(), row, told


def _fitted(
    folder: BackboneFolder, expected: Mapping[str, Tensor], pos_grid_hw: tuple[int, int]
) -> dict[str, Tensor]:
    """The tensors of the folder in the shapes that a backbone stores."""
    tensors = dict(folder.tensors)
    kernel = tensors.get("patch_embed.weight")
    if kernel is not None:
        _check_kernel(kernel)
        side = expected["patch_embed.weight"].shape[-1]
        tensors["patch_embed.weight"] = resample_patch_kernel(kernel.float(), side)
    positions = tensors.get("pos_embed")
    if positions is not None and "pos_embed" in expected:
        side = math.isqrt(max(0, positions.shape[1] - 1)) if positions.dim() == 3 else 0
        if not side or side * side != positions.shape[1] - 1:
            raise InputError(
                f"position_embeddings of shape {tuple(positions.shape)} are no square table"
            )
        tensors["pos_embed"] = resample_positions(positions, (side, side), pos_grid_hw)
    for name, like in expected.items():
        # norms of feature stages that a classifier does not have start as the identity
        if name.startswith("norms.") and name not in tensors:
            ones = name.endswith("weight")
            tensors[name] = torch.ones(like.shape) if ones else torch.zeros(like.shape)
    # a norm behind a stage that gives no map
    for name in [name for name in tensors if name.startswith("norms.") and name not in expected]:
        del tensors[name]
    _check_names(tensors, expected)
    check_numbers(tensors, dict(expected))
    return tensors


def _check_kernel(kernel: Tensor) -> None:
    """Raises :class:`InputError` for a patch embedding that cannot be resampled: FlexiViT's rule is
    defined for square kernels that do not overlap.
    """
    if kernel.dim() != 4 or kernel.shape[1] != 3 or kernel.shape[2] != kernel.shape[3]:
        raise InputError(
            f"a patch embedding of shape {tuple(kernel.shape)} cannot be resampled",
            hint="give a backbone with square patches of three channels",
        )


def _check_names(given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raises :class:`InputError` for missing, unknown and misshapen tensors."""
    if missing := sorted(expected.keys() - given.keys()):
        raise InputError(
            f"the weights lack {missing[0]} (and {len(missing) - 1} more)",
            hint=f"check that {WEIGHTS} and {CONFIG_JSON} belong together",
        )
    if unknown := sorted(given.keys() - expected.keys()):
        raise InputError(
            f"the weights have {len(unknown)} entries that {CONFIG_JSON} does not describe, e.g. "
            f"{unknown[0]}",
            hint=f"check that {WEIGHTS} and {CONFIG_JSON} belong together",
        )
    for name, like in expected.items():
        if given[name].shape != like.shape:
            raise InputError(
                f"{name} has shape {tuple(given[name].shape)}, and {CONFIG_JSON} describes "
                f"{tuple(like.shape)}",
                hint=f"check that {WEIGHTS} and {CONFIG_JSON} belong together",
            )
