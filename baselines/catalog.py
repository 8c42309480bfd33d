"""Every baseline as a row, and what makes an artifact or a countable module of it. transformers is
imported when one is built.

Weights are drawn from ``SEED`` or come from a safetensors file in transformers' names; nothing is
downloaded or unpickled.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from rfdetr_repro.model.checkpoints.container import read_container
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.presets import PRESETS

from . import (
    d_fine,
    lw_detr,
    open_vocabulary,
    rt_detr,
    transformers_rf_detr,
    yolo_libre,
    yolo_ultralytics,
)
from .foreign import Package

SEED = 0
OPSET = 17
FORMS = ("evaluated", "deployed")


class Row(NamedTuple):
    """``family`` and ``size`` are those of the paper's tables, so that rows join."""

    family: str
    name: str
    size: str
    build: Callable[..., Any]  # (num_classes) -> the library's model
    forms: Any  # module with a function per FORMS: library's model -> images to boxes and logits
    num_classes: int
    class_head: str  # name of the tensor whose rows are the classes
    hw: tuple[int, int] = (640, 640)  # px of the input
    normalise: str = "none"
    dynamo: bool = False  # which of PyTorch's two exporters works
    masks: bool = False
    # what exports it in a process of its own; then ``build`` gives the name it has there
    foreign: Package | None = None
    form: str = "detr"  # of its raw file, see rfdetr_repro.export.adopt.adoption
    star: str = ""  # why the model runs in PyTorch only, where no artifact can be made of it


def _row(
    family: str,
    name: str,
    module: Any,
    key: str,
    size: str,
    classes: int,
    head: str,
    normalise: str = "none",
) -> Row:
    return Row(
        family,
        name,
        size,
        lambda num_classes: module.build(key, num_classes),
        module,
        classes,
        head,
        normalise=normalise,
    )


def _transformers_rf_detr(size: str) -> Row:
    """Another family name: it is no second measurement of the paper's row, but another program for
    the same model.
    """
    preset = PRESETS[size]

    def build(num_classes: int) -> Any:
        return transformers_rf_detr.build(
            replace(preset.model, num_classes=num_classes), preset.arch.windows
        ).eval()

    name = "RF-DETR-Seg (transformers)" if preset.model.masks else "RF-DETR (transformers)"
    letter = size.removeprefix("seg-")
    forms = transformers_rf_detr
    head = "class_embed.weight"
    hw = preset.arch.input_hw
    return Row(
        "rfdetr-transformers",
        name,
        letter,
        build,
        forms,
        91,
        head,
        hw,
        "imagenet",
        True,
        preset.model.masks,
    )


def _open_vocabulary(family: str, name: str) -> Row:
    """LLMDet is MM-GroundingDINO trained otherwise: one program, one cost."""
    star = (
        "its text encoder and its masks over the prompt are no static graph; the paper measures it "
        "in PyTorch, too"
    )
    return Row(
        family,
        name,
        "T",
        open_vocabulary.build_tiny,
        open_vocabulary,
        80,
        "",
        (800, 1333),
        "imagenet",
        star=star,
    )


def _ultralytics(family: str, letter: str, seg: str) -> Row:
    name = f"{family}-{letter}{seg}"
    form = "yolo-seg" if seg else "yolo"
    size = yolo_ultralytics.SIZES[letter]
    shown = yolo_ultralytics.FAMILIES[family]
    given = yolo_ultralytics.package_name(name)  # without hyphen before the size
    return Row(
        family,
        shown,
        size,
        lambda _: given,
        None,
        80,
        "",
        masks=bool(seg),
        foreign=yolo_ultralytics.PACKAGE,
        form=form,
    )


def _libre(family: str, letter: str) -> Row:
    name = f"{family}-{letter}"
    x = family == "yolox"
    side = yolo_libre.SIDES.get(name, 640)
    size = yolo_libre.LETTERS.get(letter, letter.upper())
    form, normalise = ("yolo-objectness", "bgr-bytes") if x else ("yolo", "none")
    shown = yolo_libre.NAMES[family]
    package = yolo_libre.PACKAGE
    return Row(
        family,
        shown,
        size,
        lambda _: name,
        None,
        80,
        "",
        (side, side),
        normalise,
        foreign=package,
        form=form,
    )


_D_FINE = {"n": "N", "s": "S", "m": "M", "l": "L", "x": "XL"}
_LW_DETR = {"tiny": "T", "small": "S", "medium": "M", "large": "L", "xlarge": "XL"}
# theirs has one pyramid level
_RF_DETR = [size for size, row in PRESETS.items() if row.model.levels == ("P4",)]
ROWS: dict[str, Row] = {
    **{
        f"dfine-{key}": _row(
            "dfine", "D-FINE", d_fine, key, size, 80, "model.decoder.class_embed.0.weight"
        )
        for key, size in _D_FINE.items()
    },
    **{
        f"rtdetr-{key}": _row(
            "rtdetr", "RT-DETR", rt_detr, key, key.upper(), 80, "model.decoder.class_embed.0.weight"
        )
        for key in rt_detr.SIZES
    },
    **{
        f"lwdetr-{key}": _row(
            "lwdetr", "LW-DETR", lw_detr, key, size, 91, "class_embed.weight", "imagenet"
        )
        for key, size in _LW_DETR.items()
    },
    **{f"rfdetr-{size}@transformers": _transformers_rf_detr(size) for size in _RF_DETR},
    **{
        f"{family}-{letter}{seg}": _ultralytics(family, letter, seg)
        for family in yolo_ultralytics.FAMILIES
        for seg in ("", "-seg")
        for letter in yolo_ultralytics.SIZES
    },
    **{
        f"{family}-{letter}": _libre(family, letter)
        for family, letters in yolo_libre.SIZES.items()
        for letter in letters
    },
    "grounding-dino-t": _open_vocabulary("groundingdino", "GroundingDINO"),
    "llmdet-t": _open_vocabulary("llmdet", "LLMDet"),
}


def library_model(name: str, checkpoint: str | Path | None = None) -> Any:
    """transformers' model of row ``name``, with random weights or those of ``checkpoint``, whose
    number of classes it takes.

    Raises :class:`InputError` if transformers is missing or the file does not fit.
    """
    row = ROWS[name]
    tensors = {} if checkpoint is None else _tensors(checkpoint)
    if tensors and row.class_head not in tensors:
        raise InputError(
            f"the file has no {row.class_head}",
            checkpoint,
            f"give {row.name} as transformers saves it",
        )
    torch.manual_seed(SEED)
    try:
        model = row.build(len(tensors[row.class_head]) if tensors else row.num_classes)
    except ImportError as error:
        raise InputError(
            f"{name} needs transformers 5 or later ({error})", hint="pip install 'transformers>=5'"
        ) from error
    if tensors:
        _load(model, tensors, checkpoint)
    return model


def _tensors(checkpoint: str | Path) -> dict[str, torch.Tensor]:
    if Path(checkpoint).suffix != ".safetensors":
        raise InputError(
            "weights of a baseline must be safetensors",
            checkpoint,
            "save them with transformers' save_pretrained",
        )
    tensors: dict[str, torch.Tensor] = read_container(checkpoint)["model"]
    return tensors


def _load(model: nn.Module, tensors: dict[str, torch.Tensor], checkpoint: Any) -> None:
    """Every tensor of ``model`` from the file; parameters that the model shares between names need
    one of the names.
    """
    expected = model.state_dict()
    unknown = sorted(tensors.keys() - expected.keys())
    present = {expected[key].data_ptr() for key in expected.keys() & tensors.keys()}
    missing = [
        key
        for key, value in expected.items()
        if value.data_ptr() not in present and "num_batches_tracked" not in key
    ]
    if missing or unknown:
        counts = f"{len(missing)} tensors missing, {len(unknown)} unknown"
        raise InputError(
            f"{counts}, such as {[*missing, *unknown][0]}",
            checkpoint,
            "name the size that the file is of",
        )
    for key, value in tensors.items():
        if value.shape != expected[key].shape:
            shapes = f"{list(value.shape)}, not {list(expected[key].shape)}"
            raise InputError(
                f"{key} has the shape {shapes}", checkpoint, "name the size that the file is of"
            )
    model.load_state_dict(tensors, strict=False)


def module(name: str, form: str = "deployed", checkpoint: str | Path | None = None) -> nn.Module:
    """images (B, 3, H, W) -> boxes, logits[, masks], as one of FORMS; under
    ``torch.device("meta")`` it costs nothing.
    """
    return getattr(ROWS[name].forms, form)(library_model(name, checkpoint))


def export(
    detector: nn.Module, path: str | Path, hw: tuple[int, int], *, dynamo: bool = False
) -> None:
    """ONNX file of batch 1 with fixed size: input ``images``, outputs ``boxes``, ``logits`` and
    maybe ``masks``.
    """
    images = torch.rand(1, 3, *hw, generator=torch.Generator().manual_seed(SEED))
    with torch.no_grad(), warnings.catch_warnings():
        # tracing warns of every fixed shape, which is what is wanted
        warnings.simplefilter("ignore")
        count = len(detector(images))
        torch.onnx.export(
            detector,
            (images,),
            str(path),
            input_names=["images"],
            output_names=["boxes", "logits", "masks"][:count],
            opset_version=OPSET + dynamo,
            dynamo=dynamo,
            **(
                {"external_data": False, "verbose": False}
                if dynamo
                else {"do_constant_folding": True}
            ),
        )
