"""Training of one rival: the same loop, batches, moving average and schedule as RF-DETR's, with the
library's own loss.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rfdetr_repro.data.transforms import Batch
from rfdetr_repro.model.checkpoints.native import sha256_tensors, write_tensors
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import atomic_path, write_atomic
from rfdetr_repro.spec.train_config import TrainConfig
from rfdetr_repro.train.loop import Loop
from rfdetr_repro.train.mask_points import PointDraws
from rfdetr_repro.train.optim import Ema, adamw
from rfdetr_repro.train.run_log import LOG, RunLog
from rfdetr_repro.train.state import TrainingState

from .library import from_config
from .module import RivalModule
from .recipe import RivalRecipe

# names that transformers' from_pretrained looks for
MODEL = "model.safetensors"
CONFIG = "config.json"
BEST = "best.safetensors"
_PREFIX = "model."


@dataclass
class RivalTrainer(Loop):
    """Trains the rival of ``recipe``. ``initial``: its state by the library's names; None: random,
    from the seed. Raises :class:`InputError` in a group of several processes.
    """

    recipe: RivalRecipe
    initial: Mapping[str, Tensor] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ranks.size > 1:
            raise InputError(
                f"a rival trains in one process, not in {self.ranks.size}: its batch normalisation "
                f"needs whole batches",
                hint="start the command without torchrun",
            )

    def new_state(self) -> TrainingState[RivalModule]:
        """The rival with its initial weights, and everything that changes with it."""
        recipe = self.recipe
        size = recipe.size
        torch.manual_seed(recipe.train.seed)
        module = RivalModule(from_config(size, json.loads(recipe.model)), size.normalise, size.hw)
        digest = ""
        if self.initial is not None:
            module.model.load_state_dict(self.initial)
            digest = sha256_tensors(self.initial)
        module.to(self.device)
        return TrainingState(
            identity=recipe.identity(self.split.sha256, digest),
            detector=module,
            dense=None,
            ema=Ema(module, recipe.train),
            optimizer=_optimizer(module, recipe.train),
            scaler=torch.amp.GradScaler(self.device.type, enabled=False),
            log=RunLog(self.folder / LOG),
        )

    def train_step(self, batches: list[Batch]) -> Mapping[str, float]:
        """One step as :meth:`.loop.Loop.train_step` takes it. A step that does not end leaves the
        statistics of the normalisations as they were, because the state is saved then.
        """
        module: nn.Module = self.state.detector
        before = {name: value.clone() for name, value in module.named_buffers()}
        complete = self.state.step
        try:
            return super().train_step(batches)
        except BaseException:
            if self.state.step == complete:
                for name, value in module.named_buffers():
                    value.copy_(before[name])
            raise

    def loss(self, batch: Batch, arch: Any, draws: PointDraws) -> tuple[Tensor, dict[str, Tensor]]:
        """The library's loss. Its random numbers (denoising queries, dropout) are a function of the
        pass.
        """
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(draws.seed)
            total, parts = self.state.detector.losses(batch.images, batch.targets)
        return total, parts

    def write_best(self, model: RivalModule, notes: str) -> None:
        """Writes the best weights so far."""
        self._write(self.folder / BEST, model.state_dict(), notes)

    def export(self) -> Path:
        """Writes weights and configuration as transformers reads them, and returns the path of the
        weights: the best by val AP with ``patience``, else the last average.
        """
        path = self.folder / MODEL
        write_atomic(self.folder / CONFIG, json.dumps(json.loads(self.recipe.model), indent=1))
        if self.state.best.step:
            with atomic_path(path) as temporary:
                shutil.copyfile(self.folder / BEST, temporary)
        else:
            self._write(path, self.state.ema.state, "last average")
        return path

    def _write(self, path: Path, state: Mapping[str, Tensor], notes: str) -> None:
        tensors = {name.removeprefix(_PREFIX): value.contiguous() for name, value in state.items()}
        write_tensors(path, tensors, {"format": "pt", "rival": self.recipe.size.id, "notes": notes})


def _optimizer(module: RivalModule, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW with a rate of its own for the backbone, and without decay of biases, normalisations
    and other parameters of one dimension.
    """
    named = dict(module.named_parameters())
    rates = {
        name: (
            config.lr_encoder if _in_backbone(name) else config.lr,
            config.weight_decay if parameter.ndim > 1 else 0.0,
        )
        for name, parameter in named.items()
    }
    return adamw(named, rates, config)


def _in_backbone(name: str) -> bool:
    return ".backbone." in name and "projector" not in name
