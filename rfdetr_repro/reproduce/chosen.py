"""The file that a run ends with."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from rfdetr_repro.export.artifact import load_artifact
from rfdetr_repro.records.record import MeasuredRecord, Record
from rfdetr_repro.runtime.backends import open_session
from rfdetr_repro.runtime.session import Session
from rfdetr_repro.search.budget import LONGEST_MS, Budget
from rfdetr_repro.search.pick import best_within, considered, file_of, measured_on
from rfdetr_repro.spec.campaign import Campaign
from rfdetr_repro.spec.errors import StatedFailure

log = logging.getLogger(__name__)


def chosen_file(
    records: Sequence[Record], campaign: Campaign, budget: Budget | None
) -> MeasuredRecord:
    """The measurement on val of the best file within the budget; without a budget, or where every
    file is slower, of the most accurate. Fine-tuned files are considered.
    """
    if budget is not None:
        try:
            measured = measured_on(considered(records, budget), campaign.backend)
            return best_within(measured, budget)
        except StatedFailure as error:
            log.info(f"{error}; the most accurate model is chosen instead")
    unlimited = Budget(LONGEST_MS / 2, "median", campaign.latency_mode, campaign.metric)
    measured = measured_on(considered(records, unlimited), campaign.backend)
    if not measured:
        raise StatedFailure("no measured file has an AP on val, so no file can be chosen")
    return best_within(measured, unlimited)


def open_file(folder: Path, chosen: MeasuredRecord, campaign: Campaign) -> Session:
    """A session of the chosen file of a run folder, on the campaign's runtime."""
    artifact = load_artifact(file_of(folder, chosen))
    threads = campaign.decision.threads
    return open_session(artifact, campaign.backend, threads=threads, cuda_graph=campaign.cuda_graph)
