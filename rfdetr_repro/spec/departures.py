"""Sentences that state where a campaign departs from the paper's recipe; they follow from its
settings alone.
"""

from __future__ import annotations

from typing import Any

from .campaign import Campaign
from .presets import PAPER_SUPERNET, PICO_WEIGHTS
from .train_config import TrainConfig

PAPER_BATCH = 128
_RECIPE = {
    "lr": "learning rate {here:g} (paper: {paper:g})",
    "lr_encoder": "learning rate of the backbone {here:g} (paper: {paper:g})",
    "layer_decay": "learning rates of the backbone's layers fall by a factor of {here:g} from "
    "layer to layer (paper: {paper:g})",
    "component_decay": "the backbone's rates are multiplied by {here:g} (paper: {paper:g})",
    "weight_decay": "weight decay {here:g} (paper: {paper:g})",
    "beta2": "beta2 of Adam {here:g} (paper: {paper:g})",
    "warmup_steps": "{here} warm-up steps (paper: {paper})",
    "cooldown_share": "the rate falls linearly to 0 over the last {here:.0%} of the steps "
    "(paper: constant)",
    "cooldown_form": "rates that fall follow a {here} (paper: constant)",
    "clip_norm": "gradients clipped at norm {here:g} (paper: {paper:g})",
    "ema_decay": "decay of the averaged weights {here:g} (paper: {paper:g})",
    "class_weight": "classification loss of weight {here:g} (paper: {paper:g})",
    "l1_weight": "L1 loss of boxes of weight {here:g} (paper: {paper:g})",
    "giou_weight": "GIoU loss of weight {here:g} (paper: {paper:g})",
    "mask_bce_weight": "cross-entropy loss of masks of weight {here:g} (upstream: {paper:g})",
    "mask_dice_weight": "Dice loss of masks of weight {here:g} (upstream: {paper:g})",
    "dense_weight": "an auxiliary loss per token of weight {here:g} during training (paper: none)",
    "flip_probability": "flips of {here:.0%} of the images (paper: {paper:.0%})",
    "crop_probability": "crops of {here:.0%} of the images (upstream: {paper:.0%})",
    "base_share": "{here:.0%} of the steps draw the base configuration (paper: all uniform)",
    "sampling": "architectures are drawn by the rule {here!r} (paper: {paper!r})",
    "patience": "training may end after {here} evaluations without a better AP (paper: all steps)",
}
_MODEL = {
    "backbone": "backbone {here} (paper: {paper})",
    "registers": "{here} register tokens in the backbone (paper: {paper})",
    "vit_dim": "width of the backbone {here} (paper: {paper})",
    "vit_depth": "{here} backbone blocks (paper: {paper})",
    "vit_heads": "{here} attention heads in the backbone (paper: {paper})",
    "layer_scale": "backbone with LayerScale: {here} (paper: {paper})",
    "hidden": "width of the decoder {here} (paper: {paper})",
    "ffn": "width of the decoder's feed-forward layers {here} (paper: {paper})",
    "decoder_layers": "{here} decoder layers at most (paper: {paper})",
    "queries": "{here} queries at most (paper: {paper})",
    "groups": "{here} groups of queries in training (paper: {paper})",
    "mask_stride": "mask maps of 1/{here} of the image side (paper: 1/{paper})",
    "proposal_side": "first-stage proposals of {here:g} of the image side (paper: {paper:g})",
}


def departures(chosen: Campaign) -> list[str]:
    """One sentence per departure: initial weights, recipe and model shapes that differ from the
    paper, then the departures that the campaign states.
    """
    found = [_initial_weights(chosen)]
    found += _differing(chosen.preset.model, PAPER_SUPERNET.model, _MODEL)
    found += _differing(chosen.train, TrainConfig(), _RECIPE)
    batch = chosen.train.batch_size * chosen.train.accumulate
    found += [f"{batch} images per step (paper: {PAPER_BATCH})"] if batch != PAPER_BATCH else []
    return [sentence for sentence in (*found, *chosen.departures) if sentence]


def _initial_weights(chosen: Campaign) -> str:
    """Empty where training starts from a file through a stage on another data set, as the paper's
    does.
    """
    paper = "(paper: DINOv2, then Objects365)"
    if chosen.pretraining is not None:
        if chosen.weights is not None:
            return ""
        return f"random weights, then a stage on {chosen.pretraining.data.name} {paper}"
    if chosen.weights is None:
        return f"random initial weights {paper}"
    if chosen.weights == PICO_WEIGHTS:
        return (
            f"initial weights that come with the package, trained on scenes that the package "
            f"composes {paper}"
        )
    return (
        f"initial weights of the file {chosen.weights.name}, without a stage on other data {paper}"
    )


def _differing(here: Any, paper: Any, sentences: dict[str, str]) -> list[str]:
    found = []
    for name, sentence in sentences.items():
        own = getattr(here, name)
        published = getattr(paper, name)
        if own != published:
            found.append(sentence.format(here=own, paper=published))
    return found
