"""How a campaign spends a given time on this machine: steps of training and of fine-tuning, engines
of the latency model, and confirmed candidates.

The parts are timed on this machine before anything is spent. Measurements get at most a third of
the time, because their number can be lowered with a known loss; the rest is training, and a reserve
for what an estimate cannot know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from rfdetr_repro.spec.campaign import Campaign
from rfdetr_repro.spec.errors import InputError

from .plan import plan_search
from .training import recipe

MEASURING_SHARE = 1 / 3  # of the time, for search and confirmation
FINETUNING_SHARE = 0.35  # of the time for training
RESERVE = 0.12  # of the time
REPORT_S = 30.0  # reading data, pictures, tables and report
CHECKS_S = 2.0  # comparison of one exported file with PyTorch, and its AP
EVALUATIONS = 4  # of the supernet during its training
FEWEST_STEPS = 40
# (engines, candidates), from thorough to quick; fewer than 8 engines say little of 162 models
MEASUREMENTS = ((18, 10), (14, 8), (12, 6), (10, 4), (8, 3), (8, 2))


@dataclass(frozen=True)
class Schedule:
    """What a campaign does in ``seconds``; the estimates of the stages are in seconds."""

    seconds: float
    steps: int
    finetune_steps: int
    engines: int
    candidates: int
    training_s: float
    finetuning_s: float
    measuring_s: float

    def apply(self, campaign: Campaign) -> Campaign:
        """``campaign`` with these numbers."""
        train = replace(
            campaign.train, steps=self.steps, evaluate_every=max(1, self.steps // EVALUATIONS)
        )
        return replace(
            campaign,
            train=train,
            finetune_steps=self.finetune_steps,
            engines=self.engines,
            most_engines=self.engines + self.engines // 2,
            candidates=self.candidates,
        )

    def lines(self) -> list[str]:
        """The lines to print."""
        return [
            f"plan for {_minutes(self.seconds)} on this machine (estimates):",
            f"  {_minutes(self.training_s)} for {self.steps} steps of the supernet",
            f"  {_minutes(self.measuring_s)} for the search, {self.engines} engines and "
            f"{self.candidates} confirmed models",
            f"  {_minutes(self.finetuning_s)} for {self.finetune_steps} steps of fine-tuning",
        ]

    def as_json(self) -> dict[str, Any]:
        """The numbers as plain values; ``Schedule(**row)`` reads them back."""
        return asdict(self)


def schedule(campaign: Campaign, splits: Mapping[str, Any], objects: float) -> Schedule:
    """The schedule of ``campaign`` for its ``time_budget_s``.

    ``objects``: of the median image, for the time of a step. Raises :class:`InputError` where the
    least number of measurements and steps does not fit.
    """
    from rfdetr_repro.ops.device import choose_device
    from rfdetr_repro.train.plan import plan as plan_training

    device = choose_device()
    train = splits["train"]
    own = recipe(campaign, campaign.train, masks=campaign.preset.model.masks and train.has_masks)
    own = replace(
        own,
        preset=replace(
            own.preset, model=replace(own.preset.model, num_classes=len(train.classes.names))
        ),
    )
    trained = plan_training(own, device, len(train), objects=round(objects))
    search = plan_search(campaign, own, len(splits["val"]), device)
    heldout = sum(len(split) for name, split in splits.items() if name != "train")
    per_engine = search.engine_s + search.measure_s
    per_image = search.passes_s / max(1, search.groups * len(splits["val"]))
    # the latest evaluation of each candidate: one image at a time, as the deployed file runs
    per_candidate = search.engine_s + search.confirm_s + CHECKS_S + 2 * per_image * heldout
    seconds = campaign.time_budget_s
    fixed = search.passes_s + REPORT_S
    chosen = next(
        (
            pair
            for pair in MEASUREMENTS
            if fixed + pair[0] * per_engine + pair[1] * per_candidate <= MEASURING_SHARE * seconds
        ),
        MEASUREMENTS[-1],
    )
    measuring = fixed + chosen[0] * per_engine + chosen[1] * per_candidate
    # a fine-tuned file is measured and evaluated as a candidate is
    training = seconds * (1 - RESERVE) - measuring - per_candidate
    slowest = max(one.seconds for one in trained.timed)
    steps = int(training * (1 - FINETUNING_SHARE) / trained.step_seconds)
    finetune = int(training * FINETUNING_SHARE / slowest)
    if min(steps, finetune) < FEWEST_STEPS:
        least = (
            measuring
            + per_candidate
            + FEWEST_STEPS
            * max(trained.step_seconds / (1 - FINETUNING_SHARE), slowest / FINETUNING_SHARE)
        ) / (1 - RESERVE)
        raise InputError(
            f"{_minutes(seconds)} are too short: {_minutes(measuring)} for the search and "
            f"{trained.step_seconds:.2g} s for each step of training",
            "--time-budget",
            f"give at least {_whole_minutes(least)}m",
        )
    return Schedule(
        seconds,
        steps,
        finetune,
        *chosen,
        steps * trained.step_seconds,
        finetune * slowest,
        measuring + per_candidate,
    )


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"


def _whole_minutes(seconds: float) -> int:
    return int(seconds // 60) + 1
