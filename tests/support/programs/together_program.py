"""A process of ``torchrun``: the first leads a tiny training and then the passes of a search.

Arguments: the run folder, the data set, and what process 1 does: nothing, ``train`` or ``search``,
in which it is killed, or ``broken``, where its search fails.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from samples_search import ERROR, latency_model

from rfdetr_repro.data.coco import read_splits
from rfdetr_repro.data.source import DataSource
from rfdetr_repro.reproduce.together import Together
from rfdetr_repro.reproduce.training import train
from rfdetr_repro.search.evaluation import GroupEvaluation
from rfdetr_repro.search.request import SearchRequest
from rfdetr_repro.search.run import open_search
from rfdetr_repro.spec.arch import SearchSpace
from rfdetr_repro.spec.campaign import EMBEDDED
from rfdetr_repro.spec.errors import InputError, run_main
from rfdetr_repro.spec.launch import place_in_torchrun
from rfdetr_repro.spec.presets import PICO_OWN
from rfdetr_repro.train.crew import follow, leading
from rfdetr_repro.train.trainer import Trainer

SPACE = SearchSpace((64, 96), (16,), (1, 2), (0, 2), (10, 25))
# from the weights that come with the package, so that the APs are not 0
CAMPAIGN = replace(
    EMBEDDED,
    space=SPACE,
    train=replace(PICO_OWN, steps=4, batch_size=2, checkpoint_every=1, evaluate_every=0, lr=1e-6),
)


def killed(*args: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def broken(*args: Any) -> None:
    raise InputError("no such picture", "000001.jpg", "look for it")


def at_step_2(real: Callable[..., Any]) -> Callable[..., Any]:
    def step(trainer: Trainer, batches: Any) -> Any:
        if trainer.state.step == 2:
            killed()
        return real(trainer, batches)

    return step


def main(argv: Sequence[str] | None = None) -> int:
    folder, data, fault = sys.argv[1:]
    if place_in_torchrun()[0] > 0:
        if fault == "train":
            Trainer.train_step = at_step_2(Trainer.train_step)  # type: ignore[method-assign]
        elif fault:
            GroupEvaluation.__call__ = killed if fault == "search" else broken  # type: ignore
        follow()
    with leading() as ranks:
        work(Path(folder), data, Together(ranks))
    print("done")
    return 0


def work(folder: Path, data: str, together: Together) -> None:
    """What the first process leads."""
    splits = read_splits(data, ("val",))
    train(CAMPAIGN, splits, folder, CAMPAIGN.weights, processes=together.processes)
    search = open_search(SearchRequest(folder, splits, space=SPACE))
    with together.searching(search, DataSource.of(data)):
        search.evaluate_all(latency_model(search), ERROR)


if __name__ == "__main__":
    sys.exit(run_main(main))
