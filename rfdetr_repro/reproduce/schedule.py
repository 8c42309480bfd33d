"""How a campaign spends a given time on this machine: steps of training and of fine-tuning, engines
of the latency model, and confirmed candidates.

The parts are timed on this machine before anything is spent. Measurements get at most a third of
the time, because their number can be lowered with a known loss; the rest is training, and a reserve
for what an estimate cannot know.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import count
from statistics import median
from typing import Any

from rfdetr_repro.data.source import DataSource
from rfdetr_repro.spec.arch import SearchSpace
from rfdetr_repro.spec.campaign import Campaign
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.train_config import of_length

from .follow import sized, sizing_of
from .outlook import END_S
from .plan import plan_search
from .training import recipe_on

MEASURING_SHARE = 1 / 3  # of the time, for search and confirmation
FINETUNING_SHARE = 0.35  # of the time for training
RESERVE = 0.12  # of the time
START_S = 20.0  # planning and the reading of the data
DEFAULT_S = 20 * 60.0  # for a campaign that follows its data and has no time budget
CHECKS_S = 2.0  # comparison of one exported file with PyTorch, and its AP
EVALUATIONS = 5  # of the supernet during and after its training
COMPARED = 24  # passes over val in the comparison of shared and single evaluation
FEWEST_STEPS = 40
FEW_STEPS = 600  # with fewer steps the space is narrowed, because each architecture needs its share
# (engines, candidates), from thorough to quick; fewer than 8 engines say little of 162 models
MEASUREMENTS = ((18, 10), (14, 8), (12, 6), (10, 4), (8, 3), (8, 2))


@dataclass(frozen=True)
class Schedule:
    """What a campaign does in ``seconds``; the estimates of the stages are in seconds.

    ``narrow``: the space is searched without its architectures above the base architecture.
    """

    seconds: float
    narrow: bool
    steps: int
    finetune_steps: int
    engines: int
    candidates: int
    training_s: float
    finetuning_s: float
    measuring_s: float
    front: bool = False  # every confirmed model is fine-tuned, each with ``finetune_steps``

    def apply(self, campaign: Campaign) -> Campaign:
        """``campaign`` with these numbers."""
        train = replace(
            of_length(campaign.train, self.steps),
            evaluate_every=max(1, self.steps // (EVALUATIONS - 1)),
        )
        return replace(
            campaign,
            train=train,
            space=narrowed(campaign) if self.narrow else campaign.space,
            finetune_steps=self.finetune_steps,
            engines=self.engines,
            most_engines=self.engines + self.engines // 2,
            candidates=self.candidates,
        )

    def lines(self) -> list[str]:
        """The lines to print."""
        lines = [
            f"plan for {_minutes(self.seconds)} on this machine (estimates):",
            f"  {_minutes(self.training_s)} for {self.steps} steps of the supernet"
            + (
                ", on the space up to the base architecture (more time searches all of it)"
                if self.narrow
                else ""
            ),
            f"  {_minutes(self.measuring_s)} for the search, {self.engines} engines and "
            f"{self.candidates} confirmed models",
        ]
        if self.finetune_steps:
            lines.append(
                f"  {_minutes(self.finetuning_s)} for {self.finetune_steps} steps of fine-tuning"
                + (" of each confirmed model" if self.front else "")
            )
        return lines

    def as_json(self) -> dict[str, Any]:
        """The numbers as plain values; ``Schedule(**row)`` reads them back."""
        return asdict(self)


def schedule(
    campaign: Campaign, splits: Mapping[str, Any], objects: float, processes: int | None = None
) -> Schedule:
    """The schedule of ``campaign`` for its ``time_budget_s``; without a time budget, for 20 minutes
    or the least time in which this machine can do the campaign.

    ``objects``: of the median image, for the time of a step; ``processes``: their number, None for
    a number that suits batch and cores in the training, and one in the search. Raises
    :class:`InputError` where the least number of measurements and steps does not fit a time budget.
    """
    whole = _costs(campaign, splits, objects, processes, narrow=False)
    wanted = campaign.time_budget_s or DEFAULT_S
    found = whole.plan(wanted)
    if found is not None and found.steps >= FEW_STEPS:
        return found
    costs = _costs(campaign, splits, objects, processes, narrow=True)
    if (found := costs.plan(wanted)) is not None:
        return found
    least = next(
        plan
        for minutes in count(int(wanted // 60) + 1)
        if (plan := costs.plan(60.0 * minutes)) is not None
    )
    if not campaign.time_budget_s:
        return least
    search = _minutes(costs.measuring(*MEASUREMENTS[-1]))
    raise InputError(
        f"a time budget of {_minutes(wanted)} is too short: a step of training takes "
        f"{costs.step_s:.2g} s here, and the search at least {search}",
        "--time-budget",
        f"give at least {least.seconds / 60:.0f}m",
    )


@dataclass(frozen=True)
class Costs:
    """What the parts of a campaign take on this machine, in seconds."""

    step_s: float  # of the supernet's training, the mean over its architectures
    slowest_step_s: float  # of the largest architecture alone
    fixed_s: float  # accuracy of all configurations, reading and drawing
    engine_s: float  # export and measurement
    candidate_s: float  # export, full protocol and accuracy of one file
    narrow: bool  # of the space up to the base architecture
    front: bool = False  # every confirmed model is fine-tuned
    tunes: bool = True  # at least one model is fine-tuned

    def measuring(self, engines: int, candidates: int) -> float:
        """Seconds of a search; files after fine-tuning are measured as candidates are."""
        files = candidates + self._tuned(candidates)
        return self.fixed_s + engines * self.engine_s + files * self.candidate_s

    def _tuned(self, candidates: int) -> int:
        """Number of models that are fine-tuned."""
        if not self.tunes:
            return 0
        return candidates if self.front else 1

    def plan(self, seconds: float) -> Schedule | None:
        """The schedule for ``seconds``; None where the least number of steps does not fit."""
        allowed = MEASURING_SHARE * seconds
        fitting = (pair for pair in MEASUREMENTS if self.measuring(*pair) <= allowed)
        engines, candidates = next(fitting, MEASUREMENTS[-1])
        measuring = self.measuring(engines, candidates)
        training = seconds * (1 - RESERVE) - measuring
        tuned = self._tuned(candidates)
        share = FINETUNING_SHARE if tuned else 0.0
        steps = int(training * (1 - share) / self.step_s)
        finetune = int(training * share / self.slowest_step_s / tuned) if tuned else 0
        if min([steps, finetune] if tuned else [steps]) < FEWEST_STEPS:
            return None
        return Schedule(
            seconds,
            self.narrow,
            steps,
            finetune,
            engines,
            candidates,
            steps * self.step_s,
            tuned * finetune * self.slowest_step_s,
            measuring,
            self.front,
        )


def followed_plan(campaign: Campaign, processes: int | None = None) -> Iterator[str]:
    """Yields what a run on the campaign's data set would choose and do; nothing is written.
    ``processes``: as in :func:`schedule`.

    Raises :class:`InputError` for data that cannot be read.
    """
    from rfdetr_repro.data.census import check_usable, objects_per_image
    from rfdetr_repro.data.coco import read_splits
    from rfdetr_repro.train.sized import tell_sizing

    splits = read_splits(
        DataSource.of(campaign.data or "").dropping(campaign.drop_bad),
        ("val", "test"),
        needed=("val",),
    )
    check_usable(list(splits.values()))
    train = splits["train"]
    if (sizing := sizing_of(campaign, train)) is not None:
        campaign = sized(campaign, sizing)
        masks = campaign.preset.model.masks and train.has_masks
        yield from tell_sizing(sizing, campaign.space, train, masks)
    objects = float(median(objects_per_image(train).tolist()))
    yield from schedule(campaign, splits, objects, processes).lines()


def narrowed(campaign: Campaign) -> SearchSpace:
    """The campaign's space without resolutions above, and patches below, those of its base
    architecture; the lowest resolution and the largest patch always stay.
    """
    base = campaign.preset.arch
    space = campaign.space
    return replace(
        space,
        resolutions=tuple(
            side
            for side in space.resolutions
            if side <= max(base.resolution, min(space.resolutions))
        ),
        patches=tuple(
            side for side in space.patches if side >= min(base.patch, max(space.patches))
        ),
    )


def _costs(
    campaign: Campaign,
    splits: Mapping[str, Any],
    objects: float,
    processes: int | None,
    *,
    narrow: bool,
) -> Costs:
    """Times the parts of the campaign, about half a minute."""
    from rfdetr_repro.ops.device import choose_device
    from rfdetr_repro.train.plan import plan as plan_training
    from rfdetr_repro.train.processes import default_processes

    device = choose_device()
    train = splits["train"]
    if narrow:
        campaign = replace(campaign, space=narrowed(campaign))
    own = recipe_on(campaign, train)
    searching = processes or 1
    if processes is None:
        processes = default_processes(own.train.batch_size) if device.type == "cpu" else 1
    trained = plan_training(own, device, len(train), round(objects), processes)
    images = len(splits["val"])
    search = plan_search(campaign, own, images, device)
    heldout = sum(len(split) for name, split in splits.items() if name != "train")
    per_pass = search.passes_s / max(1, search.groups * images)
    # a deployed file runs one image at a time, a shared pass of the search some
    per_image = 2 * per_pass
    accumulate = own.train.accumulate
    loading = accumulate * _loading_s(train, own)
    # on a CPU the pictures are read by the cores that train
    added = loading / processes if device.type == "cpu" else 0.0
    slowest = max(accumulate * one.seconds + one.update_seconds for one in trained.timed)
    evaluations = EVALUATIONS * heldout * per_pass
    comparison = COMPARED * images * per_pass
    return Costs(
        trained.step_seconds + added,
        slowest + added,
        search.passes_s / searching + evaluations + comparison + START_S + END_S,
        search.engine_s + search.measure_s,
        search.engine_s + _confirming_s(campaign, per_image) + CHECKS_S + per_image * heldout,
        narrow,
        campaign.finetune_front,
        campaign.finetune_steps > 0,
    )


def _loading_s(train: Any, own: Any) -> float:
    """Seconds of one thread for reading and resizing the pictures of one micro-batch."""
    from rfdetr_repro.data.transforms import make_batch

    masks = own.preset.model.masks
    count = min(len(train), own.train.batch_size)
    train.sample(0, masks)  # the first reading loads decoders
    started = time.perf_counter()
    make_batch([train.sample(row, masks) for row in range(count)], own.preset.arch.input_hw)
    return (time.perf_counter() - started) * own.train.batch_size / count


def _confirming_s(campaign: Campaign, latency_s: float) -> float:
    """Seconds of the full protocols of one file, as they usually take; a plan of the search states
    the most that they may take.
    """
    return sum(
        one.builds * min(one.timeout_s, one.max_samples * (one.buffer_ms / 1e3 + latency_s))
        for one in campaign.protocols
    )


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"
