"""Supernet training: one architecture per step, drawn from a step-seeded generator, so that any step can be run again.

Everything random in step t is a function of (seed, t); together with the saved tensors this makes a resumed run equal, bit for
bit on CPU with the same number of threads and processes, to one that was never stopped.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..config import Arch, SearchSpace, TrainConfig
from ..data.coco import CocoSplit
from ..data.loader import batch_indices, training_batches
from ..data.transforms import Batch
from ..errors import InputError
from ..files import writable_folder
from ..model.checkpoint import ModelCard, read_tensors, save_detector, sha256_tensors, write_tensors
from ..model.detector import Detector
from ..presets import Preset
from .dense import DenseHead
from .losses import detection_losses
from .mask_points import PointDraws
from .optim import Ema, build_optimizer, schedule
from .parallel import Ranks

STATE, MODEL, LOG = "training_state.safetensors", "supernet.safetensors", "train_log.jsonl"
Progress = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class Recipe:
    """What a run is: resuming under another one is refused. ``space`` None trains the preset's own architecture only."""

    preset: Preset
    train: TrainConfig
    space: SearchSpace | None = None

    def arch_of_step(self, step: int) -> Arch:
        """The architecture of a step: the base one with probability ``base_share``, else uniform over the backbones."""
        if self.space is None:
            return self.preset.arch
        rng = np.random.default_rng((self.train.seed, 1, step))
        if rng.random() < self.train.base_share:
            return self.preset.arch
        archs = self.space.training_archs()
        return archs[int(rng.integers(len(archs)))]

    def identity(self, data_sha256: str, initial: dict[str, Tensor] | None = None) -> str:
        """What two runs must share to be one: recipe, data and the weights they start from."""
        preset = {**asdict(self.preset), "arch": self.preset.arch.knobs()}
        fields = {"preset": preset, "train": asdict(self.train), "space": self.space and asdict(self.space)}
        start = {} if initial is None else {"initial": sha256_tensors(initial)}
        return json.dumps({**fields, "data": data_sha256, **start}, sort_keys=True)


def bfloat16_is_fast(device: torch.device) -> bool:
    """Whether the device has bfloat16 instructions (elsewhere autocast would be slower than float32)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())


@dataclass
class Trainer:
    """Owns the live state of one run in ``folder``; construct, then :meth:`run`.

    Under ``torchrun`` (see :mod:`.parallel`) every rank constructs its own; rank 0 writes and evaluates.
    """

    recipe: Recipe
    split: CocoSplit
    folder: Path
    initial: dict[str, Tensor] | None = None  # weights to start from; None: random
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    step: int = 0
    seconds: float = 0.0  # training time so far, over all sessions
    _log: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        config, preset = self.recipe.train, self.recipe.preset
        if self.recipe.space is not None:
            self.recipe.space.check()
        torch.manual_seed(config.seed)
        model = replace(preset.model, num_classes=len(self.split.classes.names))
        self.detector = Detector(model, preset.arch)
        if self.initial is not None:
            self.detector.load_state_dict(self.initial)
        self.detector.to(self.device)
        self.dense = DenseHead(model).to(self.device) if config.dense_weight else None
        modules: dict[str, torch.nn.Module] = {"": self.detector}
        if self.dense is not None:
            modules["dense."] = self.dense
        self.optimizer = build_optimizer(modules, config, max(model.feature_stages))
        self.ema = Ema(self.detector, config)
        self.autocast = config.bfloat16 and bfloat16_is_fast(self.device)
        self.ranks = Ranks.current()
        self.saved_processes: int | None = None  # that trained what was resumed; as many give the same bits again
        self.identity = self.recipe.identity(self.split.sha256, self.initial)
        if (self.folder / STATE).exists():
            self._load()

    def run(self, progress: Progress | None = None, evaluate: Callable[[Trainer], list[dict]] | None = None) -> Path:
        """Trains to the last step, saving every ``checkpoint_every`` steps; returns the path of the EMA model.

        ``progress`` and ``evaluate`` are called on rank 0 only.
        """
        config, first = self.recipe.train, self.ranks.rank == 0
        if config.batch_size < self.ranks.size:
            raise InputError(f"a batch of {config.batch_size} cannot be split over {self.ranks.size} processes")
        if not self.ranks.agree(f"{self.step} {self.identity}"):
            raise InputError("the processes do not see the same run and data", self.folder, "give them one shared folder")
        writable_folder(self.folder)
        stream = training_batches(
            self.split,
            config,
            self._size_of_step,
            start_step=self.step,
            stop_step=config.steps,
            masks=self.recipe.preset.model.masks,
            part=self.ranks.part,
        )
        started = time.perf_counter() - self.seconds
        try:
            for batches in stream:
                parts = self.train_step(batches)
                self.seconds = time.perf_counter() - started
                last = self.step == config.steps
                if not first:
                    continue
                if self.step % 10 == 0 or last:
                    self._log.append(json.dumps({"step": self.step, "seconds": round(self.seconds, 2), **parts}))
                if progress is not None:
                    progress(self.step, parts)
                if evaluate and (last or (config.evaluate_every and self.step % config.evaluate_every == 0)):
                    self._log += [json.dumps({"step": self.step, **row}) for row in evaluate(self)]
                    started = time.perf_counter() - self.seconds  # evaluation is not training time
                if last or self.step % config.checkpoint_every == 0:
                    self.save()
        finally:
            stream.close()
        return self.export()

    def _size_of_step(self, step: int) -> tuple[int, int]:
        return self.recipe.arch_of_step(step).input_hw

    def train_step(self, batches: list[Batch]) -> dict[str, float]:
        """One optimizer step over its micro-batches; returns the losses of the last one, by part, summed over all ranks."""
        config, arch = self.recipe.train, self.recipe.arch_of_step(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * schedule(self.step, config)
        self.detector.train()
        for micro, batch in enumerate(batches):
            seed = int(np.random.default_rng((config.seed, 2, self.step, micro)).integers(2**62))
            draws = PointDraws(seed, self.ranks.part(config.batch_size).start)
            total, parts = self.loss(batch.to(self.device), arch, draws)
            (total / len(batches)).backward()
            parts = self._summed({"loss": float(total.detach()), **parts})
            if not math.isfinite(parts["loss"]):
                raise InputError(f"loss is not finite at step {self.step} with {arch.key}", self._images_of(micro), "lower lr")
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        self.ranks.sum_gradients(parameters)
        parts["grad_norm"] = float(torch.nn.utils.clip_grad_norm_(parameters, config.clip_norm))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.ema.update(self.detector, self.step)
        return parts

    def _images_of(self, micro: int) -> str:
        """The images of this step's micro-batch, on all ranks."""
        config = self.recipe.train
        chosen = batch_indices(len(self.split), config.batch_size, self.step, config.seed, micro, config.accumulate)
        return f"images {[self.split.images[index].id for index in chosen.tolist()]}"

    def _summed(self, parts: dict[str, float]) -> dict[str, float]:
        return dict(zip(parts, self.ranks.sum(list(parts.values()), self.device), strict=True))

    def loss(self, batch: Batch, arch: Arch, draws: PointDraws) -> tuple[Tensor, dict[str, float]]:
        """Weighted training loss of this rank's images of one micro-batch at ``arch``, and its parts.

        The denominators are those of the whole micro-batch, so the ranks' losses, and their gradients, add up.
        """
        detector, config = self.detector, self.recipe.train
        with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=self.autocast):
            maps = detector.features(batch.images, arch.patch, arch.windows)
        maps = [one.float() for one in maps]
        hw = (batch.images.shape[-2], batch.images.shape[-1])
        outputs = detector.training_outputs(maps, hw, arch)
        groups = detector.config.groups
        (objects,) = self.ranks.sum([sum(len(target.labels) for target in batch.targets)], self.device)
        total, parts = detection_losses(outputs, batch.targets, groups, config, draws, max(1.0, objects * groups))
        if self.dense is not None:
            summed, tokens = self.dense.loss(maps[0], batch.targets)
            dense = summed / max(1.0, *self.ranks.sum([tokens], self.device))
            total, parts["dense"] = total + config.dense_weight * dense, float(dense.detach())
        return total, parts

    def card(self) -> ModelCard:
        classes = self.split.classes
        return ModelCard(
            self.detector.config,
            self.recipe.preset.arch,
            tuple(classes.names),
            tuple(classes.category_ids),
            self.recipe.space,
            train_data_sha256=self.split.sha256,
            steps=self.step,
        )

    def save(self) -> None:
        """One atomic file with everything a resume needs; the log is cut to the same step."""
        tensors = {f"model.{name}": value for name, value in self.detector.state_dict().items()}
        tensors |= {f"ema.{name}": value for name, value in self.ema.state.items()}
        if self.dense is not None:
            tensors |= {f"dense.{name}": value for name, value in self.dense.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optim.{index}.{name}": value for name, value in state.items()}
        metadata = {"step": str(self.step), "seconds": repr(self.seconds), "log": json.dumps(self._log)}
        metadata |= {"processes": str(self.ranks.size), "recipe": self.identity}
        write_tensors(self.folder / STATE, tensors, metadata)
        (self.folder / LOG).write_text("".join(line + "\n" for line in self._log))

    def _load(self) -> None:
        path = self.folder / STATE
        tensors, metadata = read_tensors(path)
        if metadata.get("recipe") != self.identity:
            raise InputError("this run was started with other data or settings", path, "use another --out, or the same settings")
        self.detector.load_state_dict(_under("model.", tensors))
        self.ema.load(_under("ema.", tensors))
        if self.dense is not None:
            self.dense.load_state_dict(_under("dense.", tensors))
        state = self.optimizer.state_dict()
        for name, value in _under("optim.", tensors).items():
            index, key = name.split(".")
            state["state"].setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict(state)
        self.saved_processes = int(metadata.get("processes", "1"))
        self.step, self.seconds = int(metadata["step"]), float(metadata["seconds"])
        self._log = json.loads(metadata["log"])

    def export(self) -> Path:
        """Writes the EMA weights as the run's slim model file."""
        if self.ranks.rank == 0:
            save_detector(self.folder / MODEL, self.ema.state, self.card())
        return self.folder / MODEL

    def ema_detector(self) -> Detector:
        """A copy of the detector with EMA weights, in evaluation mode."""
        copy = Detector(self.detector.config, self.detector.arch)
        copy.load_state_dict(self.ema.state)
        return copy.to(self.device).eval()


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}


def read_log(folder: Path) -> Iterator[dict]:
    """Rows of a run's training log."""
    path = folder / LOG
    if path.exists():
        yield from (json.loads(line) for line in path.read_text().splitlines())
