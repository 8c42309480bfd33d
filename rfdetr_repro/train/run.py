"""The only way to train: :class:`TrainRequest` states what a run needs, :func:`train` runs it.

The training command, the campaigns, fine-tuning and ``RFDETR.train`` assemble a request each (see
:mod:`.prepare`) and call :func:`train` once. This module loads no PyTorch until a run starts, so
that commands can import the module before they have read their arguments.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rfdetr_repro.spec.arguments import MOST_PROCESSES, MOST_THREADS
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import locked, sha256_file, writable_folder
from rfdetr_repro.spec.stage import current

from .best import CHOOSING_SPLIT, Best
from .callbacks import TrainingCallback

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from rfdetr_repro.data.coco import CocoSplit
    from rfdetr_repro.data.hooks import Hooks
    from rfdetr_repro.model.detector import Detector

    from .recipe import Recipe
    from .trainer import Evaluate, Trainer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainRequest:
    """Everything that a training run depends on.

    Raises :class:`InputError` for settings that contradict each other, for a model with masks on a
    train split that lacks some, and for a number of processes that the batch cannot be split over.
    What can only be known on the machine that trains is checked at the start of :func:`train`.
    """

    recipe: Recipe
    split: CocoSplit  # to train on
    folder: Path  # folder of the run; an unfinished run of the same request in it is resumed
    # name -> split, evaluated every ``evaluate_every`` steps and at the end; rows go to the log
    held_out: Mapping[str, CocoSplit] = field(default_factory=dict)
    # the detector's parameters by name, float32 on the CPU, with heads for the classes of
    # ``split``; None: random, from the seed of the recipe
    initial: Mapping[str, Tensor] | None = None
    device: torch.device | None = None  # None: a GPU if there is one
    # processes of this machine that share each batch on the CPU, 1 to MOST_PROCESSES; None: as many
    # as before the run was stopped, else a number that suits device and batch
    processes: int | None = None
    # threads, on a GPU processes, that decode and resize pictures for each process that trains: 1
    # to MOST_THREADS, which change no result; None: by the cores of this machine
    loader_threads: int | None = None
    tensorboard: bool = False  # also write TensorBoard curves; needs the tensorboard package
    # observers of the run, which change nothing about its result; see :mod:`.callbacks` and
    # :func:`.loggers.loggers`
    callbacks: Sequence[TrainingCallback] = field(default=(), compare=False, repr=False)
    # leave pictures of labels, batches, curves and sampled architectures in FOLDER/training
    pictures: bool = False
    # choose batch_size and accumulate of the recipe anew, by the memory of ``device``, with the
    # same number of images per step; see :mod:`.auto_batch`
    auto_batch: bool = False
    # own augmentation and sampler; with them one process trains, unless ``processes`` is given
    hooks: Hooks | None = None

    def __post_init__(self) -> None:
        self.recipe.check()
        count = self.processes
        if count is not None:
            whole = isinstance(count, int) and not isinstance(count, bool)
            if not whole or not 1 <= count <= MOST_PROCESSES:
                raise InputError(
                    f"processes = {count!r} is not a whole number from 1 to {MOST_PROCESSES}"
                )
            batch_size = self.recipe.train.batch_size
            if count > batch_size:
                raise InputError(f"a batch of {batch_size} cannot be split over {count} processes")
        threads = self.loader_threads
        if threads is not None:
            whole = isinstance(threads, int) and not isinstance(threads, bool)
            if not whole or not 1 <= threads <= MOST_THREADS:
                raise InputError(
                    f"loader_threads = {threads!r} is not a whole number from 1 to {MOST_THREADS}"
                )
        if self.recipe.train.freeze and self.initial is None:
            raise InputError(
                f"freeze = {','.join(self.recipe.train.freeze)} without initial weights would keep "
                f"random numbers",
                hint="give weights to start from",
            )
        if self.recipe.preset.model.masks and not self.split.has_masks:
            raise InputError(
                f"the {self.split.split} split has annotations without a segmentation",
                self.split.name,
                "train without masks",
            )


@dataclass(frozen=True)
class Run:
    """A finished training run.

    Under ``torchrun`` the first process writes the files; other processes may return before the
    files are written.
    """

    folder: Path
    model: Path  # the run's weights with their card, safetensors
    steps: int  # optimizer steps, over all sessions
    seconds: float  # training time over all sessions, evaluations not counted
    precision: str  # what backbone and projector computed in, and why
    # the evaluation that chose the weights; None: the weights are the last average
    best: Best | None

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the model file, in hexadecimal; the file is read at the first access."""
        return sha256_file(self.model)


def train(request: TrainRequest) -> Run:
    """Trains to the end with lines of progress, or resumes the unfinished run of the same request
    in its folder. A run that is complete is returned as it is.

    Raises :class:`InputError` for bad input before any step: another run's folder, a folder that
    cannot be written or in which another process trains, weights of another model, several
    processes on a GPU, ``patience`` without a val split, TensorBoard curves without the package. A
    signal ends the run with :class:`~rfdetr_repro.spec.errors.Interrupted`, after saving the state.
    A loss or gradient that is not finite, insufficient memory, and a process that died raise
    :class:`~rfdetr_repro.spec.errors.StatedFailure`.
    """
    import torch

    from rfdetr_repro.ops.device import choose_device

    from .crew import Crew
    from .processes import shared
    from .progress import TrainingDisplay
    from .run_pictures import RunPictures
    from .trainer import MODEL, Trainer

    device = choose_device() if request.device is None else request.device
    if request.auto_batch:
        request = _with_fitting_batch(request, device)
    # arguments of the other processes' trainers
    arguments: dict[str, Any] = {
        "recipe": request.recipe,
        "split": request.split,
        "folder": request.folder,
        "initial": request.initial,
        "device": device,
        "loader_threads": request.loader_threads,
        **({"hooks": request.hooks} if request.hooks else {}),
    }
    # reads a saved state and checks the arguments before any process is started
    trainer = Trainer(**arguments)
    count = _process_count(request, trainer)
    if trainer.finished and (trainer.folder / MODEL).exists():
        log.warning(f"the run in {trainer.folder} is complete: nothing to train")
        return _result(trainer)
    _check_evaluation(request)
    _check_hooks(request, trainer, count)
    display = TrainingDisplay(current(), evaluated=bool(request.held_out))
    callbacks = [*_loggers(request), display, *request.callbacks]
    writable_folder(trainer.folder)
    if trainer.ranks.rank == 0:
        log.info(f"precision: {trainer.told}")
    evaluate = _evaluation(request, torch.get_num_threads())
    crew = Crew.current()
    with _alone(trainer), shared(count, **arguments), crew.training(arguments):
        trainer = Trainer(**arguments) if count > 1 else trainer
        if request.pictures:
            callbacks.append(RunPictures(trainer))
        trainer.run(evaluate=evaluate, callbacks=callbacks)
    return _result(trainer)


def _with_fitting_batch(request: TrainRequest, device: torch.device) -> TrainRequest:
    """The request with the batch size that a resumed run has, or that fits into memory."""
    from .auto_batch import fitted
    from .parallel import Ranks

    if Ranks.current().size > 1:
        raise InputError(
            'a batch size of "auto" is for one process',
            hint="give a number, which holds for all processes together",
        )
    preset = request.recipe.preset
    model = replace(preset.model, num_classes=len(request.split.classes.names))
    trial = replace(request.recipe, preset=replace(preset, model=model))
    found, why = fitted(
        trial, device, request.folder, request.split.most_objects(), request.processes
    )
    log.info(why)
    recipe = replace(request.recipe, train=found.train)
    return replace(request, recipe=recipe, auto_batch=False)


def _process_count(request: TrainRequest, trainer: Trainer) -> int:
    """Number of processes that train, including this process; prints what differs from the previous
    session.
    """
    from .processes import default_processes

    ranks = trainer.ranks
    alone = trainer.device.type != "cpu" or ranks.size > 1
    if request.processes is not None:
        count = request.processes
    elif alone or request.hooks:
        count = 1
    elif trainer.before is not None:
        count = trainer.before.processes
    else:
        count = default_processes(request.recipe.train.batch_size)
    log.debug(
        f"{count} processes: "
        + ("as given" if request.processes is not None else "chosen by device, cores and batch")
    )
    if ranks.rank == 0:
        _print_changes(trainer, max(count, ranks.size))
    if count > 1 and alone:
        raise InputError(
            f"{count} processes of one machine are for its CPU",
            hint="start one process per GPU by torchrun, and leave processes out",
        )
    return count


def _print_changes(trainer: Trainer, processes: int) -> None:
    """Prints what makes a resumed run equal to an uninterrupted run up to rounding only."""
    before = trainer.before
    if before is None:
        return
    if before.processes != processes:
        log.warning(
            f"{before.processes} processes trained so far; with another number the results are "
            f"equal up to rounding only"
        )
    if before.precision not in (None, trainer.precision.stored):
        trained = str(before.precision).removeprefix("torch.").replace("None", "float32")
        log.warning(
            f"trained in {trained} so far; in another precision the results are equal up to "
            f"rounding only"
        )


def _check_evaluation(request: TrainRequest) -> None:
    """Raises :class:`InputError` for what would stop the run at its first evaluation."""
    if request.recipe.train.patience and CHOOSING_SPLIT not in request.held_out:
        raise InputError(
            f"patience needs a {CHOOSING_SPLIT} split to evaluate on",
            request.split.name,
            "add a val split, or leave patience out",
        )


def _check_hooks(request: TrainRequest, trainer: Trainer, processes: int) -> None:
    """Tries the hooks, and prints what makes it unknown whether a resumed run equals an
    uninterrupted run. Raises :class:`InputError` for hooks that cannot be used.
    """
    if not request.hooks:
        return
    from rfdetr_repro.data.hooks import check_hooks, identity_of

    for name, hook in request.hooks.given().items():
        if processes > 1 and not _importable(hook):
            raise InputError(
                f"{name} cannot be sent to {processes} processes",
                identity_of(hook),
                "define the function in a module of its own, or give processes=1",
            )
    config = request.recipe.train
    masks = request.recipe.preset.model.masks
    count = config.batch_size * config.accumulate
    for line in check_hooks(request.hooks, request.split, count, config.seed, masks):
        log.warning(line)
    if trainer.before is not None:
        for named in request.hooks.without_identity():
            log.warning(
                f"{named} states no identity: whether it is unchanged since step "
                f"{trainer.state.step}, so that the resumed run equals an uninterrupted run, is "
                f"not known"
            )


def _importable(hook: Any) -> bool:
    """Whether another process can get the hook by importing its module."""
    named = hook if hasattr(hook, "__qualname__") else type(hook)
    if named.__module__ == "__main__":
        return False
    try:
        pickle.dumps(hook)
    except Exception:
        return False
    return True


def _loggers(request: TrainRequest) -> Sequence[TrainingCallback]:
    """The loggers that the request names."""
    if not request.tensorboard:
        return ()
    from .loggers import loggers

    return loggers(("tensorboard",))


def _evaluation(request: TrainRequest, threads: int) -> Evaluate | None:
    """Evaluates a detector on the held-out splits with ``threads`` threads, while the other
    processes wait; None without such splits.
    """
    if not request.held_out:
        return None
    return partial(_evaluate, request.held_out, threads)


def _evaluate(
    held_out: Mapping[str, CocoSplit], threads: int, detector: Detector
) -> list[dict[str, Any]]:
    from rfdetr_repro.evaluation.predict_split import base_accuracies
    from rfdetr_repro.ops.device import torch_threads

    with torch_threads(threads):
        return base_accuracies(detector, held_out)


def _alone(trainer: Trainer) -> AbstractContextManager[None]:
    """Keeps other runs from training in this folder while the block runs; the first process of a
    run holds the lock for all.
    """
    from .state import STATE

    if trainer.ranks.rank > 0:
        return nullcontext()
    return locked(trainer.folder / STATE, "trains in this folder")


def _result(trainer: Trainer) -> Run:
    from .trainer import MODEL

    state = trainer.state
    return Run(
        folder=trainer.folder,
        model=trainer.folder / MODEL,
        steps=state.step,
        seconds=state.seconds,
        precision=trainer.told,
        best=replace(state.best) if state.best.step else None,
    )
