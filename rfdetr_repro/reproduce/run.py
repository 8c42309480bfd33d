"""The whole flow: data, supernet, search, artifacts, measured Records, report; resumable at every
stage.

    python -m rfdetr_repro.reproduce [--campaign embedded|coco|FILE.toml] \
        [--data DIR] [--out runs/NAME] [--processes N]

A repeated command reads finished stages instead of computing them. Every stage leaves files that
are complete or absent.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, TypeVar

from rfdetr_repro.data.source import DataSource
from rfdetr_repro.records.ap_gaps import ap_gaps, describe_gaps
from rfdetr_repro.records.model_check import model_checks
from rfdetr_repro.records.record import MeasuredRecord, Record
from rfdetr_repro.records.store import Store
from rfdetr_repro.spec import logs
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.campaign import Campaign
from rfdetr_repro.spec.clock import utc_now
from rfdetr_repro.spec.errors import StatedFailure
from rfdetr_repro.spec.files import remove_unfinished, sha256_file
from rfdetr_repro.spec.metrics import percent
from rfdetr_repro.spec.protocol import Protocol
from rfdetr_repro.spec.sizing import Sizing

from .follow import sized, sizing_of
from .inputs import ReadData, read_data
from .outlook import later_seconds, planned_seconds
from .stages import Stages
from .summary import write_summary
from .together import Together
from .training import check_masks, pretrain, train

if TYPE_CHECKING:
    from rfdetr_repro.data.coco import CocoSplit
    from rfdetr_repro.runtime.session import Session
    from rfdetr_repro.search.budget import Budget
    from rfdetr_repro.search.deployment import Deployment
    from rfdetr_repro.search.request import SearchRequest
    from rfdetr_repro.search.run import LatencyFit, Refit, SearchRun

log = logging.getLogger(__name__)

T = TypeVar("T")
# a search's steps -> label and unit of their progress bars
BARS = {
    "engines": ("exporting engines", "engine"),
    "backbones": ("searching", "backbone"),
    "candidates": ("confirming", "model"),
}


def bar(label: str, unit: str) -> Callable[[Iterable[T]], Iterable[T]]:
    """A progress bar with an estimate, which wraps a sequence."""
    return lambda items: logs.progress_bar(items, label, unit)


@dataclass
class Reproduction:
    """A campaign in a run folder; ``together``: the processes that work on it; ``read``: the data,
    where they were read before the folder was made.
    """

    campaign: Campaign
    folder: Path
    command: str
    together: Together = field(default_factory=Together)
    read: ReadData | None = None

    def __post_init__(self) -> None:
        self.stages = Stages(self.folder / "stages.json")
        self.store = Store(self.folder / "records.jsonl")
        self.source: DataSource | None = None  # what the data were read from

    def run(self) -> Path:
        """Runs all stages; returns the report's path.

        Raises :class:`InputError` if another run writes the folder's store.
        """
        with self.store.exclusive():
            remove_unfinished(self.folder)
            # as the previous run left it
            self.stages = Stages(self.stages.path).of(self.campaign)
            return self._run()

    def _run(self) -> Path:
        started_at = self.stages.keep("started", lambda: {"at": utc_now()})["at"]
        splits = self.stages.run(
            "data",
            "composing or reading the data set",
            self.data,
            earlier_s=0.0 if self.read is None else self.read.seconds,
        )
        sizing = self.follow_data(splits)
        self.stages.of(self.campaign)
        if "train" not in self.stages.rows:
            self.stages.keep("outlook", lambda: self.later_seconds(splits))
        self.train(splits, sizing)
        run = self.search(splits)
        with run.working():
            fit, confirmed = self.find(run)
            self.tune_front(run, confirmed)
        search = run.search
        costs = self.stages.keep("costs", lambda: self.costs(search))
        self.after_search(search, splits)
        self.stages.run(
            "predictions", "drawing example predictions", lambda: self.predictions(splits)
        )
        self.stages.run(
            "evaluation",
            "evaluating the chosen model by class",
            lambda: self.evaluation(splits),
        )
        write_summary(self, splits, started_at=started_at, search=search, fit=fit, costs=costs)
        return self.stages.run("report", "tables, plots, report", self.report)

    def train(self, splits: Mapping[str, CocoSplit], sizing: Sizing | None) -> None:
        """Trains the supernet, as a stage, after the pretraining where there is one."""
        weights = self.weights()
        work = partial(
            train, self.campaign, splits, self.folder, weights, sizing, self.together.processes
        )
        self.stages.run("train", "training the supernet", work)

    def find(self, run: SearchRun) -> tuple[LatencyFit, list[Record]]:
        """Runs engines, passes and confirmation, each as a stage; returns the latency model and the
        confirmed Records.
        """
        title = f"measuring {self.campaign.latency_mode} latencies of engines for the latency model"
        fit = self.stages.run("latency", title, lambda: self.latency(run))
        whole = "accuracy of every configuration"
        title = (
            "a race of the configurations for the frontier"
            if self.campaign.strategy == "race"
            else whole
        )
        records = self.stages.run("search", title, lambda: self.evaluate(run, fit))
        confirmed = self.stages.run(
            "confirm",
            "full protocol for frontier candidates",
            lambda: self.confirm(run, fit, records),
        )
        self.stages.run(
            "model",
            "latency model compared with the confirmed files",
            lambda: self.judge(run, fit, records, confirmed),
        )
        return fit, confirmed

    def tune_front(self, run: SearchRun, confirmed: Sequence[Record]) -> None:
        """Runs the fine-tuning of every confirmed architecture, if the campaign asks for it."""
        from .after import tune_front

        if self.campaign.finetune_front:
            title = "fine-tuning every confirmed architecture"
            self.stages.run("front", title, lambda: tune_front(run, confirmed))

    def report(self) -> tuple[Path, str]:
        """The PDF, built again only if the Records changed, by their content rather than by file
        times, because a clock may be set back.
        """
        from rfdetr_repro.report.build import build_report

        path = self.folder / "report.pdf"
        metrics = self.folder / "evaluation" / "metrics.json"
        shown = {
            "records_sha256": sha256_file(self.store.path),
            # absent in a run of an earlier version
            "evaluation_sha256": sha256_file(metrics) if metrics.exists() else "",
        }
        if not path.exists() or self.stages.rows.get("report.result") != shown:
            build_report(self.folder)
            self.stages.note("report.result", shown)
        return path, "report.pdf and report.html"

    def data(self) -> tuple[dict[str, Any], str]:
        """Composes or reads the data."""
        from rfdetr_repro.data.census import print_census
        from rfdetr_repro.data.embedded.dataset import EmbeddedConfig, write_embedded

        read = self.read
        if read is None:
            folder = self.campaign.data
            if folder is None:
                progress = bar("composing", "x32 images")
                folder = write_embedded(
                    self.folder / "data", EmbeddedConfig(seed=self.campaign.data_seed), progress
                )
            read = read_data(self.campaign, folder)
        splits = read.splits
        self.source = read.source
        if "test" not in splits:
            log.info(f"no test split in {read.source}: only val is reported")
        print_census(splits.values())
        for line in check_masks(self.campaign, splits):
            log.info(line)
        return splits, ", ".join(f"{name} {len(split)} images" for name, split in splits.items())

    def follow_data(self, splits: Mapping[str, CocoSplit]) -> Sizing | None:
        """Sizes the campaign by its data and plans it for its time budget, where it asks for that;
        prints every choice. A run that goes on keeps the choices of its first session.
        """
        train = splits["train"]
        sizing = self.sizing(train)
        if sizing is not None:
            from rfdetr_repro.train.sized import tell_sizing

            kept = self.stages.keep("sizing", sizing.as_json)
            sizing = Sizing.from_json(kept)
            if self.campaign.queries not in (0, sizing.queries):
                log.warning(
                    f"the run was started with {sizing.queries} queries and keeps them; choose "
                    f"another --out for another number of queries"
                )
            self.campaign = sized(self.campaign, sizing)
            masks = self.campaign.preset.model.masks and train.has_masks
            for line in tell_sizing(sizing, self.campaign.space, train, masks):
                log.info(line)
        if self.campaign.time_budget_s or self.campaign.follow_data:
            from rfdetr_repro.data.census import objects_per_image

            from .schedule import Schedule, schedule

            objects = float(median(objects_per_image(splits["train"]).tolist()))
            planned = Schedule(
                **self.stages.keep(
                    "schedule",
                    lambda: schedule(self.campaign, splits, objects, self.together.size).as_json(),
                )
            )
            if self.campaign.time_budget_s not in (0.0, planned.seconds):
                log.warning(
                    f"the run was planned for {planned.seconds / 60:.3g} min and keeps that plan; "
                    f"choose another --out for another time budget"
                )
            if self.campaign.finetune_front != planned.front:
                log.warning(
                    f"the run was planned {'with' if planned.front else 'without'} a fine-tuning "
                    f"of every confirmed model, and keeps the planned {planned.finetune_steps} "
                    f"steps for each model: the planned times do not hold"
                )
            self.campaign = planned.apply(self.campaign)
            log.info("\n".join(planned.lines()))
        return sizing

    def sizing(self, train: CocoSplit) -> Sizing | None:
        """The settings that the model takes from the train split; None for those of the
        campaign.
        """
        return sizing_of(self.campaign, train)

    def later_seconds(self, splits: Mapping[str, CocoSplit]) -> dict[str, float]:
        """Stage after the training -> estimated seconds; of the schedule, if there is one."""
        planned = self.stages.rows.get("schedule.result")
        if planned is not None:
            return planned_seconds(planned)
        return later_seconds(self.campaign, splits, self.together.size or 1)

    def weights(self) -> Path | None:
        """The weights that the supernet's training starts from: the campaign's file, or the result
        of pretraining from that file.
        """
        if (before := self.campaign.pretraining) is None:
            return self.campaign.weights
        work = partial(
            pretrain, self.campaign, self.folder / "pretraining", self.together.processes
        )
        return self.stages.run("pretraining", f"training on {before.data.name}", work)

    def search(self, splits: Mapping[str, CocoSplit]) -> SearchRun:
        """The opened search of the trained supernet."""
        from rfdetr_repro.search.run import SearchRun

        return SearchRun.open(self.request(splits))

    def request(self, splits: Mapping[str, CocoSplit]) -> SearchRequest:
        """The campaign's request for a search on ``splits``."""
        from rfdetr_repro.search.request import Front, SearchRequest
        from rfdetr_repro.search.targets import Targets

        asked = self.campaign
        return SearchRequest(
            self.folder,
            splits,
            space=asked.space,
            strategy=asked.strategy,
            metric=asked.metric,
            masks=asked.search_masks,
            targets=Targets(asked.targets_ms) if asked.targets_ms else None,
            budget=self.budget,
            front=Front(asked.finetune_steps, asked.train, self.together.processes)
            if asked.finetune_front
            else None,
            engines=asked.engines,
            most_engines=asked.most_engines,
            candidates=asked.candidates,
            deployment=self.deployment,
            protocols=asked.protocols,
            confirm_on=tuple(name for name in splits if name != "train"),
            campaign=asked.name,
            command=self.command,
            seed=asked.train.seed,
            tell=log.info,
            progress=lambda step: bar(*BARS[step]),
        )

    @property
    def protocol(self) -> Protocol:
        """The protocol of a file after fine-tuning."""
        return self.campaign.decision

    @property
    def deployment(self) -> Deployment:
        """The runtime that the campaign's models are measured on."""
        from rfdetr_repro.search.deployment import Deployment

        asked = self.campaign
        return Deployment(asked.backend, asked.precision, asked.cuda_graph)

    @property
    def budget(self) -> Budget | None:
        """The campaign's ceiling for the latency."""
        from rfdetr_repro.search.budget import Budget

        asked = self.campaign
        if asked.budget_ms is None:
            return None
        return Budget(asked.budget_ms, asked.quantile, asked.latency_mode, asked.metric)

    def latency(self, run: SearchRun) -> tuple[LatencyFit, str]:
        """Measures engines and fits the latency model."""
        fit = run.fit()
        return fit, f"{fit.engines} engines; {fit.heldout.describe()}"

    def judge(
        self,
        run: SearchRun,
        fit: LatencyFit,
        records: Sequence[Record],
        confirmed: Sequence[Record],
    ) -> tuple[Refit, str]:
        """Fits the model to the confirmed files too, after a comparison with its predictions for
        them.
        """
        refit = run.refit(fit, records, confirmed)
        detail = (
            f"{refit.seen.describe('on the confirmed files:')}; fitted to them too, "
            f"{refit.error.describe()}"
        )
        outside = [check for check in model_checks(confirmed) if not check.within_bound]
        return refit, "; ".join([detail, *(check.describe() for check in outside)])

    def evaluate(self, run: SearchRun, fit: LatencyFit) -> tuple[list[Record], str]:
        """Evaluates every configuration, or races them."""
        with self.together.searching(run.search, self.source):
            records, outcome = run.evaluate(fit)
        spent = ""
        if outcome is not None:
            spent = (
                f", a race with {run.spent(outcome)} of the image evaluations ({outcome.took()})"
            )
        best = _highest(records, "ap50")
        detail = (
            "val has no object, so no AP"
            if best is None
            else f"best val AP50 {percent(best.accuracy.ap50)} ({best.model.arch.key})"
        )
        return records, f"{len(records)} configurations{spent}; {detail}"

    def costs(self, search: Any) -> dict[str, Any]:
        """Compares shared and single evaluation of some configurations."""
        from rfdetr_repro.search.economy import costs_of_sharing

        return costs_of_sharing(search)

    def confirm(
        self, run: SearchRun, fit: LatencyFit, records: Sequence[Record]
    ) -> tuple[list[Record], str]:
        """Measures the candidates by the full protocol."""
        confirmed = run.confirm(fit, records, check_exports="confirm" not in self.stages.rows)
        detail = (
            f"{len({record.model.arch for record in confirmed})} models, each checked against "
            f"PyTorch by matched boxes"
        )
        gaps = describe_gaps(ap_gaps([*records, *confirmed])).removesuffix(".")
        return confirmed, "; ".join(filter(None, (detail, gaps)))

    def after_search(self, search: Any, splits: dict[str, Any]) -> None:
        """Runs the stages after the search that the campaign asks for."""
        from .after import family, fine_tune, finetuning

        if not self.campaign.finetune_steps:
            return
        if not self.campaign.follow_data:  # a question of the paper, not of a user with data
            title = "patch sizes that were never trained"
            with self.together.searching(search, self.source):
                self.stages.run("family", title, lambda: family(search))
        if self.campaign.finetune_front:  # which includes the best
            return
        recipe = finetuning(self.campaign)
        # kept, because the fine-tuned file is considered by a later session
        kept = self.stages.keep("tuning", lambda: {"arch": self._key_of_chosen()})
        arch = Arch.parse(kept["arch"])
        self.stages.run(
            "finetune", f"fine-tuning {arch.key}", lambda: fine_tune(self, arch, splits, recipe)
        )

    def predictions(self, splits: dict[str, Any]) -> tuple[list[Path], str]:
        """Draws example predictions."""
        from rfdetr_repro.search.pick import name_of

        from .pictures import draw_examples

        chosen, session = self.chosen_session()
        paths = draw_examples(session, splits, self.folder / "predictions")
        return paths, f"{len(paths)} pictures with {name_of(chosen.record)}"

    def evaluation(self, splits: dict[str, Any]) -> tuple[None, str]:
        """Evaluates the file that the run ends with by class and size, in the folder
        ``evaluation``.
        """
        from rfdetr_repro.search.pick import name_of

        from .evaluation import evaluate_chosen, splits_of

        chosen, session = self.chosen_session()
        evaluate_chosen(session, splits, self.folder / "evaluation")
        split, chooser = splits_of(session, splits)
        return None, (
            f"{name_of(chosen.record)} on {split.split}, threshold chosen on "
            f"{(chooser or split).split}"
        )

    def chosen_session(self) -> tuple[MeasuredRecord, Session]:
        """The measurement on val of the file that the run ends with, and a session of that file on
        the campaign's runtime.
        """
        from .chosen import open_file

        chosen = self.chosen()
        return chosen, open_file(self.folder, chosen, self.campaign)

    def chosen(self) -> MeasuredRecord:
        """The measurement on val of the file that the run ends with, see
        :func:`.chosen.chosen_file`.
        """
        from .chosen import chosen_file

        return chosen_file(self.store.read(), self.campaign, self.budget)

    def _key_of_chosen(self) -> str:
        arch = self.chosen().record.model.arch
        if arch is None:
            raise StatedFailure("the chosen file does not state its architecture")
        return arch.key


def _highest(records: Iterable[Record], name: str) -> Any:
    """The first Record with the highest AP of this name ("ap" or "ap50"); None if no Record has an
    AP.
    """
    scored = [
        (value, record)
        for record in records
        if record.accuracy is not None and (value := getattr(record.accuracy, name)) is not None
    ]
    return max(scored, key=lambda pair: pair[0], default=(None, None))[1]
