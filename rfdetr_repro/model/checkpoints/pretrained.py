"""Checkpoints of other projects -> a detector: released RF-DETR files, Hugging Face transformers
state dicts, DINOv2 encoders.

Shapes determine most of a configuration. What shapes cannot determine (windows, feature stages,
head and point counts) comes from the file's own arguments, else from the only preset with these
shapes, else from the size that the caller names (architecture facts section 12).
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rfdetr_repro.model.detector import Detector
from rfdetr_repro.model.vit import resample_patch_kernel, resample_positions
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.backbone_kinds import PLAIN
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import atomic_path, sha256_file
from rfdetr_repro.spec.labels import UNUSED, Labels, coco_labels, labels_of_checkpoint
from rfdetr_repro.spec.model_config import ModelConfig, tuples
from rfdetr_repro.spec.presets import PRESETS, Preset, preset
from rfdetr_repro.spec.resize_rules import ANTIALIASED, rule_of_upstream

from .container import CONFIG_JSON, arguments, chosen_weights, read_container, weights_file
from .layouts import ENCODER, from_dinov2, from_transformers, layout_of
from .native import FORMAT, ModelCard, check_numbers, load_supernet
from .released import from_released, to_released
from .upstream import check_settings, departures, described, transformers_settings

log = logging.getLogger(__name__)

UNNAMED = "unnamed"  # for labels whose meaning does not matter
# logit of a class that never wins: its score is 1e-13, and a few thousand training steps can still
# raise the score
NEVER = -30.0
_KERNEL = f"{ENCODER}embeddings.patch_embeddings.projection.weight"
_POSITIONS = f"{ENCODER}embeddings.position_embeddings"


def load_pretrained(
    path: str | Path, size: str | Preset | None = None, labels: str | Sequence[str] | None = None
) -> tuple[Detector, ModelCard, str]:
    """A detector in evaluation mode, its card and the file's SHA-256, from any checkpoint that this
    package reads, its own included.

    ``size`` is a preset or its name: needed for a DINOv2 encoder (the rest of the model is
    initialised at random), and where the file does not state enough about itself. ``labels`` states
    what the labels mean where the file does not prove it (see :func:`labels_of_checkpoint`);
    :data:`UNNAMED` leaves the meaning open, for training that replaces the heads. Raises
    :class:`InputError` for a file of another size, and for a file that cannot be used.
    """
    path = weights_file(path)
    content = read_container(path)
    row = preset(size) if isinstance(size, str) else size
    if content.get("metadata", {}).get("format") == FORMAT:
        if labels not in (None, UNNAMED):
            raise InputError("the file states its own labels", path, "leave the labels out")
        loaded = load_supernet(path)
        if row is not None:
            _refuse_other_size(row.model, asdict(loaded[1].config), size, path)
        return loaded
    state, taken = chosen_weights(content, path)
    stated = arguments(content)
    layout = layout_of(state)
    try:
        if layout in ("dinov2", "dinov2-meta"):
            if row is None:
                raise InputError(
                    "a DINOv2 encoder needs a size", hint=f"choose one of {', '.join(PRESETS)}"
                )
            detector = _with_encoder(row, from_dinov2(state, layout))
            found_labels = labels_of_checkpoint({}, row.model.num_classes)
        else:
            released = (
                from_transformers(state)
                if layout == "transformers"
                else without_added_logits(state, stated)
            )
            # whose names are of either layout
            if str(content.get(CONFIG_JSON, {}).get("model_type", "")).startswith("rf_detr"):
                stated = {**transformers_settings(content[CONFIG_JSON]), **stated}
            configuration = content.get("model_config")
            found = infer_preset(
                released, stated, row, configuration if isinstance(configuration, dict) else {}
            )
            # allocate nothing before the file is known to hold what it describes
            with torch.device("meta"):
                described = Detector(found.model, found.arch).state_dict()
            most = Path(path).stat().st_size
            if sum(tensor.numel() for tensor in described.values()) > most:
                raise InputError(
                    f"a file of {most} bytes does not hold the model that it describes",
                    hint="check that the file is complete",
                )
            ours = from_released(released, described, found.model.groups)
            check_numbers(ours, described)
            detector = Detector(found.model, found.arch)
            detector.load_state_dict(ours)
            found_labels = _labels(stated, found.model.num_classes, labels)
    except InputError as error:
        raise error.at(path) from error
    except (
        TypeError,
        ValueError,
        ArithmeticError,
        LookupError,
        AttributeError,
        RuntimeError,
    ) as error:
        reason = str(error).strip() or type(error).__name__
        raise InputError(
            f"the file describes itself with values that cannot be used ({reason})",
            path,
            "name the size of the model",
        ) from error
    notes = "; ".join(note for note in (found_labels.note, taken) if note)
    rule = rule_of_upstream(stated)
    names = found_labels.names
    ids = found_labels.category_ids
    resize = None if rule == ANTIALIASED else rule
    card = ModelCard(detector.config, detector.arch, names, ids, notes=notes, resize=resize)
    return detector.eval(), card, sha256_file(path)


def _labels(stated: dict[str, Any], num_classes: int, labels: str | Sequence[str] | None) -> Labels:
    if labels != UNNAMED:
        return labels_of_checkpoint(stated, num_classes, labels)
    try:
        return labels_of_checkpoint(stated, num_classes)
    except InputError:
        return labels_of_checkpoint({}, num_classes)


def model_masks(path: str | Path) -> bool:
    """Whether the file is a model of this package that has a mask head."""
    metadata = read_container(path).get("metadata", {})
    return (
        metadata.get("format") == FORMAT and ModelCard.from_json(metadata["card"]).config.masks
        if "card" in metadata
        else False
    )


def _with_encoder(row: Preset, encoder: dict[str, Tensor]) -> Detector:
    """A randomly initialised detector with a DINOv2 encoder, whose kernel and positions are
    resampled to the stored sizes.
    """
    detector = Detector(row.model, row.arch)
    for key in (_KERNEL, _POSITIONS):
        if key not in encoder:
            raise InputError(
                f"the encoder lacks {key[len(ENCODER) :]}", hint="check that the file is a DINOv2"
            )
    encoder[_KERNEL] = resample_patch_kernel(encoder[_KERNEL], row.model.patch)
    side = math.isqrt(encoder[_POSITIONS].shape[1] - 1)
    encoder[_POSITIONS] = resample_positions(
        encoder[_POSITIONS], (side, side), row.model.pos_grid_hw
    )
    expected = {
        name: value for name, value in detector.state_dict().items() if name.startswith("backbone.")
    }
    ours = from_released(encoder, expected, row.model.groups)
    check_numbers(ours, expected)
    detector.load_state_dict(ours, strict=False)
    return detector


def infer_preset(
    released: dict[str, Tensor],
    stated: dict[str, Any],
    size: str | Preset | None = None,
    model_config: dict[str, Any] | None = None,
) -> Preset:
    """Configuration and architecture of a state dict in released names; see the description of the
    module.

    Raises :class:`InputError` where shapes and the file's statements do not determine a
    configuration.
    """
    shapes = _shapes(released)
    check_settings(stated, model_config or {}, shapes)
    row = preset(size) if isinstance(size, str) else size or _matching_preset(shapes)
    if row is None:
        if "out_feature_indexes" not in stated or "num_windows" not in stated:
            known = ", ".join(f"{name} {value}" for name, value in shapes.items())
            raise InputError(
                f"no size has these shapes ({known}) and the file does not describe itself",
                hint="name the size of the model",
            )
        dim = shapes["vit_dim"]
        nano = PRESETS["nano"]
        # DINOv2 heads are 64 wide
        row = replace(nano, model=replace(nano.model, vit_dim=dim, vit_heads=max(1, dim // 64)))
    else:
        _refuse_other_size(row.model, shapes, size)
    model = replace(row.model, **{**_stated_fields(stated, shapes["vit_depth"]), **shapes})
    resolution = row.arch.resolution
    samples = model.cross_heads * len(model.levels) * model.points
    if (
        rows := len(released["transformer.decoder.layers.0.cross_attn.attention_weights.bias"])
    ) != samples:
        raise InputError(
            f"{rows} attention samples per query, but heads x levels x points = {samples}",
            hint="name the size of the model",
        )
    width = 0
    if "input_hw" in stated:  # written by save_released
        resolution, width = (int(side) for side in stated["input_hw"])
    elif "resolution" in stated:
        resolution = int(stated["resolution"])
    elif (model.patch, model.pos_grid) != (row.model.patch, row.model.pos_grid):
        resolution = model.patch * model.pos_grid_hw[0]
    windows = int(stated.get("num_windows", row.arch.windows))
    queries = min(int(stated.get("num_queries") or model.queries), model.queries)
    return Preset(
        model,
        Arch(resolution, model.patch, windows, model.decoder_layers, queries, width),
        row.note,
    )


def _refuse_other_size(
    model: ModelConfig, found: dict[str, Any], size: str | Preset | None, path: str | Path = ""
) -> None:
    """Raises :class:`InputError` if the widths or parts ``found`` in a file are not those of
    ``model``, called ``size``.
    """
    for name in ("backbone", "vit_dim", "hidden", "masks", "levels"):
        if found.get(name, PLAIN) != getattr(model, name):
            named = f"size {size}" if isinstance(size, str) else "the model"
            raise InputError(
                f"the file has {name} {found.get(name, PLAIN)}, {named} has {getattr(model, name)}",
                path,
                "name the size of the file, and its backbone where the size has another",
            )


def _shapes(released: dict[str, Tensor]) -> dict[str, Any]:
    """The fields of :class:`ModelConfig` that follow from the shapes of the tensors."""
    try:
        groups = _count(released, r"transformer\.enc_output\.(\d+)\.weight")
        rows = released["refpoint_embed.weight"].shape[0]
        positions = released[_POSITIONS].shape[1]
        if groups < 1 or rows % groups or math.isqrt(positions - 1) ** 2 != positions - 1:
            raise InputError(
                f"{rows} queries in {groups} groups and {positions} positions do not fit together"
            )
        return {
            "vit_dim": released[_KERNEL].shape[0],
            "vit_depth": _count(
                released, rf"{re.escape(ENCODER)}encoder\.layer\.(\d+)\.norm1\.weight"
            ),
            "layer_scale": f"{ENCODER}encoder.layer.0.layer_scale1.lambda1" in released,
            "hidden": released["class_embed.weight"].shape[1],
            "num_classes": released["class_embed.bias"].shape[0],
            "projector_blocks": _count(
                released, r"backbone\.0\.projector\.stages\.0\.0\.m\.(\d+)\.cv1\.conv\.weight"
            ),
            "levels": _levels(released),
            "ffn": released["transformer.decoder.layers.0.linear1.bias"].shape[0],
            "decoder_layers": _count(
                released, r"transformer\.decoder\.layers\.(\d+)\.norm1\.weight"
            ),
            "queries": rows // groups,
            "groups": groups,
            "masks": "segmentation_head.bias" in released,
            "patch": released[_KERNEL].shape[-1],
            "pos_grid": math.isqrt(positions - 1),
        }
    except KeyError as error:
        raise InputError(
            f"not an RF-DETR checkpoint: it lacks {error.args[0]}",
            hint="check that the file is an RF-DETR model",
        ) from error


def _count(names: dict[str, Tensor], pattern: str) -> int:
    found = {int(match[1]) for match in map(re.compile(pattern).fullmatch, names) if match}
    if found != set(range(len(found))):
        raise InputError(
            f"parts of the model are missing: it has {len(found)} of {max(found) + 1} that match "
            f"{pattern}"
        )
    return len(found)


def _levels(released: dict[str, Tensor]) -> tuple[str, ...]:
    prefix = "backbone.0.projector.stages"
    levels = []
    for level in range(_count(released, rf"{re.escape(prefix)}\.(\d+)\.1\.weight")):
        up = f"{prefix}_sampling.{level}.0.0.weight"
        down = f"{prefix}_sampling.{level}.0.0.conv.weight"
        levels.append("P3" if up in released else "P5" if down in released else "P4")
    return tuple(levels)


def _matching_preset(shapes: dict[str, Any]) -> Preset | None:
    """The only preset with these widths, depth, patch and position grid."""
    telling = ("vit_dim", "hidden", "levels", "decoder_layers", "masks", "patch", "pos_grid")
    rows = [
        row
        for row in PRESETS.values()
        if all(getattr(row.model, name) == shapes[name] for name in telling)
    ]
    return rows[0] if len(rows) == 1 else None


def _stated_fields(stated: dict[str, Any], vit_depth: int) -> dict[str, Any]:
    """Fields of :class:`ModelConfig` that only the file's own arguments state."""
    if "proposal_side" in stated:  # written by save_released
        return {
            name: value
            for name, value in tuples(stated).items()
            if name in ModelConfig.__dataclass_fields__
        }
    names = {
        "sa_nheads": "self_heads",
        "ca_nheads": "cross_heads",
        "dec_n_points": "points",
        "vit_heads": "vit_heads",
    }
    fields: dict[str, Any] = {
        ours: int(stated[theirs])
        for theirs, ours in names.items()
        if stated.get(theirs) is not None
    }
    if stated.get("out_feature_indexes"):
        stages = tuple(int(stage) for stage in stated["out_feature_indexes"])
        # Upstream takes the stage numbers for block indices (section 3), and its weights depend on
        # this.
        fields |= {
            "feature_stages": stages,
            "global_blocks": tuple(stage for stage in stages if stage < vit_depth),
        }
    return fields


def save_released(path: str | Path, detector: Detector, card: ModelCard) -> str:
    """Writes the released layout, a ``.pth`` file that upstream's program loads with the right
    class names; returns its SHA-256.

    Upstream expects n + 1 logits for n classes, with labels from 0 and the last logit unused. Where
    the model has no unused logit, a logit that never wins is added, which :func:`load_pretrained`
    removes again. The 91 logits of COCO stay as they are. Prints what upstream's program cannot
    build. Raises :class:`InputError` for a position table that is not square, for
    another backbone than the plain DINOv2, and for windows that share one class token.
    """
    model = card.config
    arch = card.arch
    if model.backbone != PLAIN:
        raise InputError(
            f"the released layout holds a plain DINOv2 only, not the backbone {model.backbone}",
            path,
            "save the model as .safetensors, which this package reads",
        )
    if model.shared_class_token:
        raise InputError(
            "the released program gives each window a class token of its own, and cannot run a "
            "model whose windows share one class token",
            path,
            "save the model as .safetensors, which this package reads",
        )
    if isinstance(model.pos_grid, tuple):
        raise InputError(
            "the released layout has square position tables only",
            path,
            "save the model that this model was sliced from",
        )
    if reasons := departures(model, arch):
        log.info(
            f"upstream's program will not run this model: it supports {'; '.join(reasons)}. This "
            f"package reads the file"
        )
    released = {
        name: tensor.cpu().contiguous()
        for name, tensor in to_released(detector.state_dict(), model.groups).items()
    }
    is_coco = (card.class_names, card.category_ids) == (
        coco_labels().names,
        coco_labels().category_ids,
    )
    used = [label for label, name in enumerate(card.class_names) if name != UNUSED]
    content = described(
        model, arch, [card.class_names[i] for i in used], [card.category_ids[i] for i in used]
    )
    if is_coco:
        content["model_config"]["num_classes"] = content["args"].num_classes = (
            len(card.class_names) - 1
        )
        content["args"].label_convention = "coco"
    else:
        unused = next(
            (label for label, name in enumerate(card.class_names) if name == UNUSED), None
        )
        released = _with_last_logit_unused(released, used, unused)
        content["args"].added_logits = int(unused is None)
    content["args"].resize_rule = card.resize_rule
    with atomic_path(path) as temporary:
        torch.save({"model": released, **content}, temporary)
    return sha256_file(path)


def _is_class_head(name: str) -> bool:
    return name.startswith(("class_embed.", "transformer.enc_out_class_embed."))


def _with_last_logit_unused(
    released: dict[str, Tensor], used: list[int], unused: int | None
) -> dict[str, Tensor]:
    """Class heads with the rows ``used`` in order and a last row: the row ``unused``, or a new row
    that never wins.
    """
    heads = {}
    for name, tensor in released.items():
        if _is_class_head(name):
            never = (
                torch.zeros_like(tensor[:1])
                if name.endswith("weight")
                else torch.full_like(tensor[:1], NEVER)
            )
            heads[name] = torch.cat(
                [tensor[used], never if unused is None else tensor[unused, None]]
            )
    return {**released, **heads}


def without_added_logits(released: dict[str, Tensor], stated: dict[str, Any]) -> dict[str, Tensor]:
    """``released`` without the logit that :func:`save_released` added to the class heads."""
    rows = released.get("class_embed.bias", torch.empty(0)).shape[0]
    names = stated.get("class_names") or ()
    count = int(stated.get("added_logits") or 0)
    if count < 1 or rows != len(names) + count:
        return released
    return {
        name: tensor[:-count] if _is_class_head(name) else tensor
        for name, tensor in released.items()
    }


@torch.no_grad()
def without_masks(detector: Detector) -> Detector:
    """The same detector without its mask head; boxes, scores and labels are unchanged."""
    fresh = Detector(replace(detector.config, masks=False), detector.arch)
    kept = fresh.state_dict()
    fresh.load_state_dict(
        {name: value for name, value in detector.state_dict().items() if name in kept}
    )
    return fresh.train(detector.training)


def with_classes(detector: Detector, labels: Labels) -> Detector:
    """The same detector for other classes: rows of every class head are repeated, then cut
    (architecture facts section 10).
    """
    count = len(labels.names)
    fresh = Detector(replace(detector.config, num_classes=count), detector.arch)
    state = detector.state_dict()
    rows = torch.arange(count) % detector.config.num_classes
    for name in ("class_embed.weight", "class_embed.bias"):
        state[name] = state[name][rows]
        state[f"selection.{name}"] = state[f"selection.{name}"][:, rows]
    fresh.to(state["class_embed.bias"].dtype).load_state_dict(state)
    return fresh.train(detector.training)


def with_queries(detector: Detector, count: int) -> Detector:
    """The same detector with at least ``count`` queries per group, for pictures that hold more
    objects than the detector was made for.

    New slot i starts as a copy of slot i mod n, where n is the number of queries of ``detector``:
    the proposals decide where a slot looks, and the copies learned to describe an object. The first
    n slots, and so all predictions with at most n queries, stay as they are. Upstream has no such
    rule: its programs refuse a checkpoint with fewer queries.
    """
    config = detector.config
    if count <= config.queries:
        return detector
    fresh = Detector(replace(config, queries=count), detector.arch)
    state = detector.state_dict()
    rows = torch.arange(count) % config.queries
    for name in ("decoder.query_feat", "decoder.refpoint_embed"):
        state[name] = (
            state[name].unflatten(0, (config.groups, config.queries))[:, rows].flatten(0, 1)
        )
    fresh.to(state["decoder.query_feat"].dtype).load_state_dict(state)
    return fresh.train(detector.training)
