"""The stages of a campaign after its search: patch sizes that were never trained, and fine-tuning
of found architectures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rfdetr_repro.records.pareto import metric
from rfdetr_repro.records.record import Record
from rfdetr_repro.search.family import between, evaluate, never_trained
from rfdetr_repro.search.finetune import VARIANTS, FineTuning
from rfdetr_repro.search.run import SearchRun
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.campaign import Campaign
from rfdetr_repro.spec.metrics import percent
from rfdetr_repro.spec.train_config import TrainConfig


def family(search: Any) -> tuple[list[Record], str]:
    """AP of patch sizes around the trained sizes, at every resolution of the space, with its
    largest decoder.
    """
    records = evaluate(search, never_trained(search.space, between(search.space)))
    return records, f"{len(records)} architectures with patch sizes that training never drew"


def finetuning(campaign: Campaign) -> TrainConfig:
    """The supernet's recipe, changed to fine-tune one architecture."""
    return replace(
        campaign.train,
        steps=campaign.finetune_steps,
        base_share=0.0,
        evaluate_every=0,
        sampling="uniform",
    )


def fine_tune(
    run: Any, arch: Arch, splits: Mapping[str, Any], recipe: TrainConfig
) -> tuple[list[Record], str]:
    """Trains ``arch`` further from the run's supernet, in the folder ``finetuned`` of the run;
    Records go to the run's store.
    """
    from rfdetr_repro.train.trainer import MODEL

    folder = run.folder
    protocol = run.protocol
    tuning = FineTuning(
        folder / MODEL,
        arch,
        folder / "finetuned",
        processes=run.together.processes,
        store=folder / "records.jsonl",
        protocol=protocol,
        deployment=run.deployment,
    )
    records = tuning.run(splits, lambda card: recipe, run.command)
    before, after = (_val_ap(records, variant) for variant in VARIANTS)
    return records, f"{arch.key}, {recipe.steps} steps: val AP {before} -> {after}"


def tune_front(run: SearchRun, confirmed: Sequence[Record]) -> tuple[list[Record], str]:
    """Fine-tunes every confirmed architecture of the search and measures the files."""
    records = run.tune(confirmed)
    files = {record.artifact.sha256 for record in records if record.artifact}
    steps = run.front.recipe.steps if run.front is not None else 0
    return records, f"{len(files)} models, {steps} steps each, measured by the full protocol"


def _val_ap(records: list[Record], variant: str) -> str:
    """AP on val in percent; "unknown" where val has no objects."""
    of_variant = [
        record
        for record in records
        if record.model.variant == variant and record.data and record.data.split == "val"
    ]
    value = metric("ap").value(of_variant[0]) if of_variant else None
    return percent(value, absent="unknown")
