"""Upstream's training keywords -> a recipe here, with upstream's defaults; differences are printed
before training begins.

Sources: ``TrainConfig`` of rfdetr 1.0 to 1.11 (architecture facts section 9). Every keyword is
applied, refused with a substitute, or ignored because it changes nothing here; ignored keywords are
listed, none is dropped silently.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.train_config import TrainConfig, frozen_parts

# least number of optimizer steps per epoch: smaller sets are drawn from repeatedly, as in upstream
TINY_STEPS = 5
PATIENCE = 10  # upstream's early_stopping_patience
NEVER_STOPS = 10**6  # evaluations

# Another name for the same setting.
_RENAMED = {
    "gradient_checkpointing": "checkpoint_activations",
    "lr_vit_layer_decay": "layer_decay",
    "lr_component_decay": "component_decay",
    "cls_loss_coef": "class_weight",
    "bbox_loss_coef": "l1_weight",
    "giou_loss_coef": "giou_weight",
    "mask_ce_loss_coef": "mask_bce_weight",
    "mask_dice_loss_coef": "mask_dice_weight",
    "clip_max_norm": "clip_norm",
}
_NO_LOGGER = "use tensorboard, wandb or mlflow, or read train_log.jsonl of the run"
AUTO = "auto"  # batch size by memory
AUTO_IMAGES = 16  # images per optimizer step of upstream's auto_batch_target_effective
_ONE_RECIPE = "this part of the recipe is fixed here"
# Keyword -> (values that describe what is done here, what to use instead of another value).
_ONLY: dict[str, tuple[tuple[Any, ...], str]] = {
    "use_ema": (
        (True,),
        "the average is always kept, and the better of average and raw weights is the model",
    ),
    "clearml": ((False,), _NO_LOGGER),
    "expanded_scales": (
        (True,),
        "give multi_scale=False for one size; the range of sizes is upstream's expanded one",
    ),
    "do_random_resize_via_padding": ((False,), _ONE_RECIPE),
    "square_resize_div_64": ((True,), "give shape=(height, width) for another form of input"),
    "drop_path": ((0,), _ONE_RECIPE),
    "dropout": ((0,), _ONE_RECIPE),
    "ia_bce_loss": ((True,), _ONE_RECIPE),
    "lr_scheduler": (
        ("step", "constant"),
        "use warmup_epochs, cooldown_share and cooldown_form (cooldown_share=1 with "
        "cooldown_form=cosine is a cosine schedule)",
    ),
    "lr_scheduler_kwargs": ((None, {}), "use warmup_epochs, cooldown_share and cooldown_form"),
    "optimizer": (("adamw",), _ONE_RECIPE),
    "optimizer_kwargs": ((None, {}), "use lr, weight_decay and beta2"),
    "aug_config": ((None,), "use flip_probability and crop_probability"),
    "scale_jitter": ((True,), "use crop_probability"),
    "augmentation_backend": (("cpu", "auto"), "use flip_probability and crop_probability"),
    "ema_update_interval": ((1,), _ONE_RECIPE),
    "eval_ema_only": ((False,), "average and raw weights are both evaluated"),
    "best_model_metric": (("map",), "the best weights are chosen by AP"),
    "backbone_lora": ((False,), _ONE_RECIPE),
    "fp16_eval": ((False,), "evaluation is in float32"),
    "dont_save_weights": ((False,), _ONE_RECIPE),
    "mask_point_sample_ratio": ((16,), _ONE_RECIPE),
    "skip_best_epochs": ((0,), _ONE_RECIPE),
    "smooth_alpha": ((0,), _ONE_RECIPE),
    "devices": (
        (1, "auto"),
        "start one process per GPU: torchrun --nproc-per-node N -m rfdetr_repro.train",
    ),
    "num_nodes": ((1,), "start torchrun on each machine: torchrun ... -m rfdetr_repro.train"),
    "strategy": (
        ("auto",),
        "start one process per GPU: torchrun --nproc-per-node N -m rfdetr_repro.train",
    ),
    "eval_batch_size": ((None,), _ONE_RECIPE),
    "start_epoch": ((0,), "give resume=FOLDER"),
    "save_dataset_grids": ((False,), _ONE_RECIPE),
    "log_per_class_metrics": ((False,), _ONE_RECIPE),
}
# Keywords that change nothing about the result here.
_ASIDE = {
    "num_workers",
    "persistent_workers",
    "prefetch_factor",
    "pin_memory",
    "progress_bar",
    "notes",
    "dataset_file",
    "print_freq",
    "num_select",
    "eval_max_dets",
    "eval_backend",
    "accelerator",
    "compute_val_loss",
    "compute_test_loss",
    "train_log_sync_dist",
    "train_log_on_step",
    "compact_train_metrics",
    "compute_train_metrics",
    "num_sanity_val_steps",
    "pack_targets",
    "pad_targets_to",
    "lr_scheduler_interval",
    "lr_scheduler_monitor",
    "world_size",
    "dist_url",
    "eval_masks_head_resolution",
    "segmentation_head",
    "auto_batch_max_targets_per_image",
    "auto_batch_ema_headroom",
    "fused_optimizer",
    "eval_base_model",  # average and raw weights are both evaluated, and either stops a run
    "early_stopping_use_ema",
    "sync_bn",  # there is no batch normalisation
}
# Keywords with a rule of their own in :func:`from_upstream`.
_RULED = (
    "early_stopping",
    "early_stopping_patience",
    "early_stopping_min_delta",
    "multi_scale",
    "warmup_epochs",
    "eval_interval",
    "checkpoint_interval",
    "lr_drop",
    "amp",
    "amp_dtype",
    "resolution",
    "device",
    "tensorboard",
    "run_test",
    "class_names",
    "group_detr",
    "seed",
    "freeze_encoder",
    "wandb",
    "mlflow",
    "project",
    "run",
    "auto_batch_target_effective",
)
_SPLIT = {"on": True, "off": False, "per-batch": True}


@dataclass(frozen=True)
class Asked:
    """A recipe, the other requested settings, and the lines to print before training begins."""

    train: TrainConfig
    tensorboard: bool = False
    loggers: tuple[str, ...] = ()  # of :data:`.loggers.LOGGERS`, without TensorBoard
    project: str | None = None
    run_name: str | None = None
    auto_batch: bool = False  # see :class:`.run.TrainRequest`
    run_test: bool = False
    resolution: int | None = None
    device: str | None = None
    class_names: tuple[str, ...] | None = None
    groups: int | None = None
    lines: tuple[str, ...] = field(default=())


def steps_per_epoch(images: int, per_step: int) -> int:
    """Optimizer steps per epoch, without the incomplete last step; upstream's five steps for a tiny
    set.
    """
    return images // per_step if images >= TINY_STEPS * per_step else TINY_STEPS


def from_upstream(
    images: int,
    base: Mapping[str, Any],
    words: Mapping[str, Any],
    evaluated: bool = True,
    stated: Mapping[str, Any] | None = None,
) -> Asked:
    """The recipe and settings of upstream's keywords.

    ``base``: epochs, batch_size and grad_accum_steps; ``words``: all other keywords, upstream's or
    of ``TrainConfig``. ``evaluated``: whether there is a val split to choose the weights on.
    ``stated``: the part of ``base`` that the caller chose (default: all). Raises
    :class:`InputError`, which names a substitute, for an unknown keyword and for a value that is
    not supported.
    """
    epochs, batch_size, accumulate = _counts(base, words, stated)
    given = {_RENAMED.get(name, name): value for name, value in words.items()}
    _refuse(given)
    given = {
        name: value for name, value in given.items() if name not in _ASIDE and name not in _ONLY
    }
    per_epoch = steps_per_epoch(images, batch_size * accumulate)
    ours: dict[str, Any] = {
        "steps": epochs * per_epoch,
        "batch_size": batch_size,
        "accumulate": accumulate,
        "multi_scale": True,
    }
    if evaluated:
        ours |= {"evaluate_every": per_epoch, "patience": NEVER_STOPS}
    ours |= _rates_and_sizes(given, per_epoch, epochs)
    ours |= _stopping(given, per_epoch, evaluated)
    options: dict[str, Any] = {
        name: given.pop(name)
        for name in ("tensorboard", "run_test", "resolution", "device", "project")
        if name in given
    }
    options["run_name"] = given.pop("run", None)
    options["loggers"] = tuple(name for name in ("wandb", "mlflow") if given.pop(name, False))
    options["auto_batch"] = base["batch_size"] == AUTO
    given.pop("auto_batch_target_effective", None)
    if given.pop("freeze_encoder", False):
        given["freeze"] = (*frozen_parts(given.get("freeze", ())), "backbone")
    names = given.pop("class_names", None)
    groups = given.pop("group_detr", None)
    train = replace(TrainConfig(**ours), **given)
    lines = _differences(
        train, images, epochs, per_epoch, {**words, **(base if stated is None else stated)}
    )
    return Asked(
        train,
        **options,
        class_names=None if names is None else tuple(names),
        groups=groups,
        lines=lines,
    )


def _counts(
    base: Mapping[str, Any], words: Mapping[str, Any], stated: Mapping[str, Any] | None
) -> tuple[int, int, int]:
    """Epochs, batch size and accumulation; with a batch size of "auto" the images of a step as one
    batch, which is divided when the memory is known.
    """
    base = dict(base)
    if base["batch_size"] == AUTO:
        if "grad_accum_steps" in (base if stated is None else stated):
            raise InputError(
                'batch_size="auto" chooses grad_accum_steps too',
                hint="leave grad_accum_steps out; auto_batch_target_effective is the number of "
                "images per step",
            )
        base["batch_size"] = words.get("auto_batch_target_effective", AUTO_IMAGES)
        base["grad_accum_steps"] = 1
    for name, value in base.items():
        if isinstance(value, bool) or not isinstance(value, int):
            hint = 'give a number, or "auto"' if name == "batch_size" else ""
            raise InputError(f"{name} {value!r} is not a whole number", hint=hint)
        if value < 1:
            raise InputError(f"{name} {value} is not positive")
    return base["epochs"], base["batch_size"], base["grad_accum_steps"]


def _refuse(given: Mapping[str, Any]) -> None:
    known = [*TrainConfig.__dataclass_fields__, *_RULED, *_ONLY, *_ASIDE, *_RENAMED]
    for name, value in sorted(given.items()):
        if name in _ONLY and value not in _ONLY[name][0]:
            raise InputError(f"{name}={value!r} is not supported here", hint=_ONLY[name][1])
        if name not in known:
            near = difflib.get_close_matches(name, known, 3, 0.5)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            settings = ", ".join(TrainConfig.__dataclass_fields__)
            raise InputError(
                f"unknown setting {name}", hint=f"{hint}known: {settings}, and upstream's keywords"
            )


def _rates_and_sizes(given: dict[str, Any], per_epoch: int, epochs: int) -> dict[str, Any]:
    """Removes upstream's keywords for rates, sizes and number formats from ``given``; returns
    fields of ``TrainConfig``.
    """
    ours: dict[str, Any] = {}
    if "multi_scale" in given:
        value = given.pop("multi_scale")
        text = value if isinstance(value, bool) else _SPLIT.get(str(getattr(value, "value", value)))
        if text is None:
            raise InputError(
                f"multi_scale={value!r} is not supported here",
                hint="choose True (one size per step) or False",
            )
        ours["multi_scale"] = text
    if "warmup_epochs" in given:
        ours["warmup_steps"] = round(
            _number(given.pop("warmup_epochs"), "warmup_epochs") * per_epoch
        )
    if "checkpoint_interval" in given:
        ours["checkpoint_every"] = max(
            1, round(_number(given.pop("checkpoint_interval"), "checkpoint_interval") * per_epoch)
        )
    if _number(given.pop("lr_drop", epochs), "lr_drop") < epochs:
        raise InputError(
            "a step of the learning rate within the run (lr_drop) is not supported here",
            hint="use cooldown_share",
        )
    if given.get("seed", 0) is None:
        del given["seed"]
    kinds = {
        "auto": {},
        "bf16": {"bfloat16": True},
        "fp16": {"bfloat16": False, "float16": True},
        None: {"bfloat16": False},
    }
    kind = given.pop("amp_dtype", "auto")
    if kind not in kinds:
        raise InputError(
            f"amp_dtype={kind!r} is not supported here", hint="choose auto, bf16, fp16 or None"
        )
    return ours | kinds[kind if given.pop("amp", True) else None]


def _stopping(given: dict[str, Any], per_epoch: int, evaluated: bool) -> dict[str, Any]:
    """Like :func:`_rates_and_sizes`, for evaluation and early stopping."""
    ours: dict[str, Any] = {}
    if "eval_interval" in given:
        interval = _number(given.pop("eval_interval"), "eval_interval")
        ours |= {"evaluate_every": max(1, round(interval * per_epoch))} if evaluated else {}
    stop = given.pop("early_stopping", False)
    patience = given.pop("early_stopping_patience", PATIENCE)
    given.pop("early_stopping_min_delta", None)
    if stop:
        if not evaluated:
            raise InputError(
                "early_stopping needs a val split to evaluate on",
                hint="add a val split, or leave early_stopping out",
            )
        ours["patience"] = patience
    return ours


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        raise InputError(f"{name} {value!r} is not a number of epochs")
    return value


def _differences(
    train: TrainConfig, images: int, epochs: int, per_epoch: int, words: Mapping[str, Any]
) -> tuple[str, ...]:
    """Lines about the differences from upstream, to print before the run."""
    per_step = train.batch_size * train.accumulate
    tiny = (
        f"; {images} images are fewer than {TINY_STEPS} steps, so they are drawn repeatedly"
        if images < TINY_STEPS * per_step
        else ""
    )
    lines = [
        f"{epochs} epochs of {per_epoch} steps of {train.batch_size} x {train.accumulate} "
        f"images{tiny}"
    ]
    if train.crop_probability:
        lines.append(
            f"differs from upstream: with probability {train.crop_probability:g} a crop of half to "
            f"all of each side (upstream: 384 to 600 px of the image resized to 400, 500 or 600)"
        )
    if "grad_accum_steps" not in words and train.accumulate != 1:
        lines.append(
            f"differs from upstream since 1.10: grad_accum_steps defaults to {train.accumulate} "
            f"(there 1), so a step has {per_step} images"
        )
    if words.get("early_stopping") and words.get("early_stopping_min_delta") != 0:
        lines.append(
            "differs from upstream: early stopping counts any rise of AP (there 0.001 at least)"
        )
    if "tensorboard" not in words:
        lines.append(
            "differs from upstream: TensorBoard curves are written with tensorboard=True only"
        )
    if train.evaluate_every == 0:
        lines.append(
            "differs from upstream: no val split, so the model is the last average, not the best"
        )
    if aside := sorted(set(words) & _ASIDE - {"dataset_file", "num_workers"}):
        lines.append(f"without effect here: {', '.join(aside)}")
    return tuple(lines)
