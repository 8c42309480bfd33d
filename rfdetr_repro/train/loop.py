"""The loop of a training run: steps, evaluations, saves and signals, whatever the model. Who trains
a model derives from :class:`Loop` (:class:`.trainer.Trainer` for RF-DETR).

All random numbers of step t are a function of (seed, t), so that any step can be run again. With
the saved tensors this makes a resumed run equal to an uninterrupted run, bit for bit on the CPU
with the same number of threads and processes.
"""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rfdetr_repro.data.coco import CocoSplit
from rfdetr_repro.data.hooks import NO_HOOKS, Hooks
from rfdetr_repro.data.loader import (
    Making,
    chosen_indices,
    default_threads,
    training_batches,
    training_source,
)
from rfdetr_repro.data.loader_processes import (
    batch_bytes,
    batches_by_processes,
    fitting_processes,
)
from rfdetr_repro.data.transfer import steps_on
from rfdetr_repro.data.transforms import Batch
from rfdetr_repro.ops.device import products, ran_out_of_memory
from rfdetr_repro.spec.errors import InputError, Interrupted, StatedFailure
from rfdetr_repro.spec.files import writable_folder

from .callbacks import TrainingCallback
from .finite import Passed, Unread
from .interrupts import Interrupts
from .listeners import CallbackFailed, Listeners
from .mask_points import PointDraws
from .optim import precision, schedule
from .parallel import Ranks
from .parts import LossParts
from .recipe import LoopRecipe, Pass
from .state import STATE, Session, TrainingState

log = logging.getLogger(__name__)

LESS_MEMORY = (
    "lower batch_size and raise accumulate, set checkpoint_activations, or choose a smaller space"
)
_LOOKED_AT = 200  # steps whose sizes tell how large a batch may be
LOG_EVERY = 10  # steps between two rows of the log, for which a run on a GPU waits for its numbers
Progress = Callable[[int, Mapping[str, float]], None]
# rows with "split" and "ap"; see rfdetr_repro.evaluation.predict_split
Evaluate = Callable[[Any], list[dict[str, Any]]]


@dataclass
class Loop:
    """Takes the steps of one run in ``folder``; construct, then call :meth:`run`. A class derived
    from it states model, loss and files: :meth:`new_state`, :meth:`loss`, :meth:`write_best` and
    :meth:`export`.

    The state of the run is :attr:`state`, read from the folder if the folder holds a state.

    Under ``torchrun`` (see :mod:`.parallel`) every rank constructs its own trainer; rank 0 writes
    and evaluates. Raises :class:`InputError` for initial weights that do not fit the model, and for
    a folder with another run.
    """

    recipe: LoopRecipe
    split: CocoSplit
    folder: Path
    initial: Mapping[str, Tensor] | None = None  # weights to start from; None: random
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    hooks: Hooks = NO_HOOKS  # own code in the making of batches
    # threads, on a GPU processes, that make batches; None: one per core, see
    # :func:`.loader.default_threads`
    loader_threads: int | None = None

    def __post_init__(self) -> None:
        config = self.recipe.check().train
        self.precision = precision(self.device, config)
        # what the steps compute in, and how, in the words of files and Records
        self.words = ", ".join([self.precision.words, *config.options])
        self.told = ", ".join([str(self.precision), *config.options])  # with the reason
        self.state = self.new_state().with_hooks(self.hooks)
        self.ranks = Ranks.current()
        self._interrupts = Interrupts()
        # Whether this process learns of a step only in the next one that its numbers are finite, so
        # that it never waits for the GPU. The loss scaler of float16 waits for them anyway.
        self.reads_later = self.device.type == "cuda" and not self.state.scaler.is_enabled()
        self._passes: list[Passed] = []  # of the step
        self._unread: Unread | None = None
        self._updating = False  # True from the first changed weight until the step is counted
        # how the previous steps were trained; None: the run is new
        self.before: Session | None = None
        path = self.folder / STATE
        if path.exists():
            self.before = self.state.load(path)

    def new_state(self) -> TrainingState[Any]:
        """The state before the first step; nothing is read or written."""
        raise NotImplementedError

    def loss(self, batch: Batch, arch: Any, draws: PointDraws) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted training loss of this rank's images of one micro-batch at ``arch``, and its
        parts, scalars that are not read here. ``draws`` holds the seed of the random numbers of
        this pass.
        """
        raise NotImplementedError

    def write_best(self, model: Any, notes: str) -> None:
        """Writes ``model``, the best so far, into the folder; ``notes`` says of which
        evaluation.
        """
        raise NotImplementedError

    def export(self) -> Path:
        """Writes the run's model file (see :meth:`run`) and returns its path."""
        raise NotImplementedError

    def save(self) -> None:
        """Writes the log and the state of the last complete step (see :mod:`.state`). Raises
        :class:`StatedFailure`, and writes nothing, for a step whose numbers are not finite.
        """
        self._settle()
        self.state.save(self.folder / STATE, Session(self.ranks.size, self.precision.stored))

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or AP has not risen for ``patience`` evaluations."""
        config = self.recipe.train
        return self.state.step >= config.steps or bool(
            config.patience and self.state.best.misses >= config.patience
        )

    def run(
        self,
        progress: Progress | None = None,
        evaluate: Evaluate | None = None,
        callbacks: Sequence[TrainingCallback] = (),
    ) -> Path:
        """Trains to the end, saving every ``checkpoint_every`` steps; returns the path of the run's
        model.

        ``progress``, ``evaluate`` and ``callbacks`` are called on rank 0 only. With ``patience``
        the model is the best of the EMA and raw weights by validation AP, and the last EMA weights
        are saved in the same folder; otherwise the model is the last EMA weights.
        """
        listeners = Listeners(self, callbacks if self.ranks.rank == 0 else ())
        try:
            with self._interrupts:
                model = self._run(progress, evaluate, listeners)
        except BaseException as error:
            outcome = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            listeners.end(outcome, message=str(error))
            raise
        early = self.state.step < self.recipe.train.steps
        listeners.end("stopped early" if early else "complete", model)
        return model

    def _run(
        self, progress: Progress | None, evaluate: Evaluate | None, listeners: Listeners
    ) -> Path:
        """Trains and writes the model; a signal or a failed observer saves the state before."""
        try:
            self._train(progress, evaluate, listeners)
        except KeyboardInterrupt as error:
            raise self._interrupted(error) from None
        except (StatedFailure, InputError, BrokenPipeError) as error:
            observed = listeners.failed or isinstance(error, (CallbackFailed, BrokenPipeError))
            if observed and self.ranks.rank == 0 and not self._updating:
                self.save()
            raise
        # with several processes: the connection to a process that the same signal ended
        except RuntimeError as error:
            if self._interrupts.asked is None:
                raise
            raise self._interrupted(Interrupted(self._interrupts.asked)) from error
        return self.export()

    def _train(
        self, progress: Progress | None, evaluate: Evaluate | None, listeners: Listeners
    ) -> None:
        """The loop over the remaining steps; an interrupted evaluation comes first."""
        stream = self._batches(evaluated=evaluate is not None)
        try:
            listeners.start()
            if self.state.evaluation_due:
                self._after_step(evaluate, listeners)
            while not self.finished:
                before = self.state.seconds
                started = time.perf_counter() - before  # evaluation is not training time
                with self._interrupts.allowed():
                    batches = next(stream)
                parts = self.train_step(batches)
                self.state.seconds = time.perf_counter() - started
                if self.ranks.rank == 0:
                    # an observer that ends the run here does not make the evaluation be forgotten
                    self.state.evaluation_due = evaluate is not None and self._evaluates_now()
                    self._note(parts, progress)
                    listeners.step(parts, self.state.seconds - before)
                self._after_step(evaluate, listeners)
            self._settle()
        finally:
            stream.close()

    def _after_step(self, evaluate: Evaluate | None, listeners: Listeners) -> None:
        """Evaluates and saves after the steps that require it."""
        config = self.recipe.train
        first = self.ranks.rank == 0
        saves = self.finished or self.state.step % config.checkpoint_every == 0
        if saves or self._evaluates_now():
            self._settle()
        if self._evaluates_now():
            if first and evaluate:
                self.state.evaluation_due = True
                started = time.perf_counter()
                rows = self._evaluate(evaluate)
                self.state.evaluation_due = False
                listeners.evaluation(rows, time.perf_counter() - started)
            self.state.evaluation_due = False
            if config.patience:  # rank 0 evaluated; the other ranks learn the result here
                (self.state.best.misses,) = map(
                    int, self.ranks.sum([self.state.best.misses if first else 0])
                )
        if first and (self.finished or self.state.step % config.checkpoint_every == 0):
            self.save()  # patience may have ended the run just now

    def _evaluates_now(self) -> bool:
        """Whether an evaluation follows the last complete step."""
        config = self.recipe.train
        return self.state.step == config.steps or bool(
            config.evaluate_every and self.state.step % config.evaluate_every == 0
        )

    def _interrupted(self, error: KeyboardInterrupt) -> Interrupted:
        """Saves the last complete step and states so; the work on an incomplete step is dropped."""
        number = error.number if isinstance(error, Interrupted) else signal.SIGINT
        step = f"at step {self.state.step} of {self.recipe.train.steps}"
        self.state.optimizer.zero_grad(set_to_none=True)
        if self.ranks.rank > 0:
            return Interrupted(number, f"{step}: process {self.ranks.rank} has ended")
        if self._updating:  # raised by something else than the handler here, which waits
            return Interrupted(
                number,
                f"in the update after step {self.state.step}: the state saved before it is kept",
            )
        self.save()
        evaluation = ", without its evaluation" if self.state.evaluation_due else ""
        return Interrupted(
            number,
            f"{step}{evaluation}: the state is saved; run the same command again to continue",
        )

    def _batches(self, evaluated: bool) -> Generator[list[Batch], None, None]:
        """Batches of the remaining steps, after checks of what could stop the run."""
        config = self.recipe.train
        if config.batch_size < self.ranks.size:
            raise InputError(
                f"a batch of {config.batch_size} cannot be split over {self.ranks.size} processes"
            )
        if config.patience and self.ranks.rank == 0 and not evaluated:
            raise InputError(
                "patience needs a val split to evaluate on",
                self.split.name,
                "add a val split, or leave patience out",
            )
        if not self.ranks.agree(f"{self.state.step} {self.state.identity}"):
            raise InputError(
                "the processes do not see the same run and data",
                self.folder,
                "give all processes one shared folder",
            )
        writable_folder(self.folder)
        return steps_on(self.device, self._made_batches())

    def _made_batches(self) -> Generator[list[Batch], None, None]:
        """The batches in this process's memory, made by threads; on a GPU by processes, because
        threads would take Python's lock from the thread that keeps the GPU busy.
        """
        config = self.recipe.train
        on_gpu = self.device.type == "cuda"
        stop = self.state.step if self.finished else config.steps
        cores = default_threads(self.ranks.size)
        if on_gpu:
            # a core for the thread that keeps the GPU busy
            workers = self.loader_threads or max(1, cores - 1)
            source = training_source(
                self.split, config, self.recipe.masks, self.hooks, self.ranks.part
            )
            largest = max(
                batch_bytes(source, self._sizes(step))
                for step in range(self.state.step, min(stop, self.state.step + _LOOKED_AT) + 1)
            )
            if fitting := fitting_processes(workers, largest):
                log.debug(f"{fitting} processes make batches")
                steps = range(self.state.step, stop)
                return batches_by_processes(source, self._sizes, steps, fitting, pinned=True)
            log.warning(
                "the system's shared memory holds no two batches: threads make the batches, which "
                "is slower on a GPU (in a container, start it with a larger --shm-size)"
            )
        making = Making(self.loader_threads or cores, pinned=on_gpu, part=self.ranks.part)
        return training_batches(
            self.split,
            config,
            self._sizes,
            start_step=self.state.step,
            stop_step=stop,
            masks=self.recipe.masks,
            hooks=self.hooks,
            making=making,
        )

    def _sizes(self, step: int) -> list[tuple[int, int]]:
        """Input height and width of each pass of a step."""
        return [arch.input_hw for arch in self.recipe.archs_of_step(step)]

    def train_step(self, batches: list[Batch]) -> Mapping[str, float]:
        """One optimizer step; ``batches`` holds each micro-batch at the size of each architecture
        of the step.

        Returns the losses of the last pass by part, summed over all ranks, and "grad_norm"; empty
        if no pass fitted into memory. On a GPU they are copied to this process when one of them is
        read. Raises :class:`StatedFailure` for a loss or gradient that is not finite: of this step,
        or on a GPU of the step before.
        """
        config = self.recipe.train
        archs = self.recipe.archs_of_step(self.state.step)
        for group in self.state.optimizer.param_groups:
            group["lr"] = group["base_lr"] * schedule(self.state.step, config)
        self.state.detector.train()
        if self.state.precisions[-1:] != [self.words]:
            self.state.precisions.append(self.words)
        updating = False
        parts: Mapping[str, float] = {}
        self._passes = []
        try:
            with self._interrupts.allowed():
                last = {id(batch): index for index, batch in enumerate(batches)}
                here: dict[int, Batch] = {}  # on the device, for another pass of their size
                for index, batch in enumerate(batches):
                    arch = archs[index % len(archs)]
                    if arch.key not in self.state.left_out:
                        sent = here.pop(id(batch), None) or batch.to(self.device)
                        if index < last[id(batch)]:
                            here[id(batch)] = sent
                        self.add_gradients(sent, arch, index // len(archs), len(batches))
            if updating := bool(self._passes):
                losses = self._passes[-1].parts
                parts = losses.also("grad_norm", self.update())
        except RuntimeError as error:
            self._leave_out(arch, error, updating)
            parts = {}
        if not parts and {arch.key for arch in self.recipe.possible_archs()} <= self.state.left_out:
            raise StatedFailure(
                f"out of memory at step {self.state.step}, and no architecture of the run is left: "
                f"{LESS_MEMORY}"
            )
        self.state.step += 1
        self._updating = False
        return parts

    def add_gradients(self, batch: Batch, arch: Pass, micro: int, passes: int) -> None:
        """Adds the gradients of one micro-batch, which is on the device, at one architecture, and
        notes its losses.
        """
        config = self.recipe.train
        seed = int(np.random.default_rng((config.seed, 2, self.state.step, micro)).integers(2**62))
        draws = PointDraws(seed, self.ranks.part(config.batch_size).start)
        with products(self.device, self.precision.tf32):
            total, parts = self.loss(batch, arch, draws)
            self.state.scaler.scale(total / passes).backward()
        self._settle()  # of the step before: what it waits for is over since the matching
        found = Passed(LossParts.of({"loss": total, **parts}, self.ranks, self.device), arch, micro)
        self._passes.append(found)
        if not self.reads_later and not math.isfinite(found.parts["loss"]):
            raise self._not_finite("loss", [found], self.state.step)

    def update(self) -> Tensor:
        """Sums the gradients over the ranks, clips them, and updates weights and EMA; returns the
        norm of the gradients.

        A norm that is not finite, the same on all ranks, ends the run before the weights change;
        in float16 the loss scaler skips the step instead, and lowers its scale. On a GPU the
        optimizer itself keeps the weights, and the run ends in the next step.
        """
        parameters = [
            parameter
            for group in self.state.optimizer.param_groups
            for parameter in group["params"]
        ]
        self.ranks.sum_gradients(parameters)
        self._updating = True
        self.state.scaler.unscale_(self.state.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.recipe.train.clip_norm)
        passes, self._passes = self._passes, []
        scaled = self.state.scaler.is_enabled()
        if self.reads_later:
            self._step_if_finite(norm, passes)
        elif not scaled and not math.isfinite(float(norm)):
            raise self._not_finite("gradient", passes, self.state.step)
        else:
            self.state.scaler.step(self.state.optimizer)
            self.state.scaler.update()
        self.state.optimizer.zero_grad(set_to_none=True)
        self.state.ema.update(self.state.detector, self.state.step + 1)
        return norm

    def _step_if_finite(self, norm: Tensor, passes: Sequence[Passed]) -> None:
        """The optimizer's step, which changes nothing where a loss of the ``passes`` or the norm is
        not finite.
        """
        self._unread, broken = Unread.of(self.state.step, passes, norm)
        optimizer: Any = self.state.optimizer
        optimizer.found_inf = broken  # as torch.amp.GradScaler tells a fused optimizer
        try:
            optimizer.step()
        finally:
            del optimizer.found_inf

    def _settle(self) -> None:
        """Raises :class:`StatedFailure` if the last step for which this is not known yet had a loss
        or a gradient that is not finite.
        """
        unread, self._unread = self._unread, None
        if unread is not None and (fault := unread.fault()):
            raise self._not_finite(*fault, unread.step)

    def _leave_out(self, arch: Pass, error: Exception, updating: bool) -> None:
        """Continues training without an architecture that does not fit into memory. Ends training
        if that is the only architecture, with several processes, or while ``updating``.
        """
        if not ran_out_of_memory(error):
            raise error
        # an update needs the same memory for any architecture, and may be half done
        if updating or self.recipe.space is None or self.ranks.size > 1:
            where = "in the update of the weights, after" if updating else "with"
            raise StatedFailure(
                f"out of memory at step {self.state.step} {where} {arch.key}: {LESS_MEMORY}"
            ) from error
        self.state.optimizer.zero_grad(set_to_none=True)
        self.state.left_out.add(arch.key)
        self.state.log.add({"step": self.state.step, "out_of_memory": arch.key})
        log.warning(
            f"out of memory at step {self.state.step}: the run continues without {arch.key}"
        )

    def _note(self, parts: Mapping[str, float], progress: Progress | None) -> None:
        if self.state.step % LOG_EVERY == 0 or self.state.step == self.recipe.train.steps:
            self._settle()
            arch = self.recipe.archs_of_step(self.state.step - 1)[-1].key
            self.state.log.add(
                {
                    "step": self.state.step,
                    "seconds": round(self.state.seconds, 2),
                    "arch": arch,
                    "lr": self.recipe.train.lr * schedule(self.state.step - 1, self.recipe.train),
                    **parts,
                }
            )
        if progress is not None:
            progress(self.state.step, parts)

    def _evaluate(self, evaluate: Evaluate) -> dict[str, list[dict[str, Any]]]:
        """Logs an evaluation of the EMA weights and returns its rows; with ``patience`` also of the
        raw weights, and keeps the best weights.
        """
        models = {"ema": self.state.averaged_detector()}
        if self.recipe.train.patience:
            models["raw"] = self.state.raw_detector()
        with self._interrupts.allowed(), products(self.device, tf32=False):
            rows = {name: evaluate(model) for name, model in models.items()}
        for name, found in rows.items():
            label = {} if name == "ema" else {"weights": name}
            for row in found:
                self.state.log.add({"step": self.state.step, **label, **row})
        if self.recipe.train.patience and (
            chosen := self.state.best.consider(self.state.step, rows)
        ):
            self.write_best(models[chosen], self.state.best.describe())
        return rows

    def _not_finite(self, what: str, passes: Sequence[Passed], step: int) -> StatedFailure:
        """Names the step, its architectures and the images of its micro-batches, on all ranks."""
        config = self.recipe.train
        keys = ", ".join(dict.fromkeys(one.arch.key for one in passes))
        chosen = [
            chosen_indices(len(self.split), config, step, micro, self.hooks)
            for micro in dict.fromkeys(one.micro for one in passes)
        ]
        images = [self.split.images[index].id for indices in chosen for index in indices.tolist()]
        where = f"{what} is not finite at step {step} with {keys}; in images {images}"
        return StatedFailure(
            f"{where}; the last checkpoint is kept: look at these images, or lower lr"
        )
