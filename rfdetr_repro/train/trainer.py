"""Training of RF-DETR: a supernet, or one fixed size. The architectures of a step are drawn from a
generator seeded by the step.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from rfdetr_repro.data.transforms import Batch
from rfdetr_repro.model.detector import Detector
from rfdetr_repro.ops.device import products
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.errors import InputError

from .loop import Evaluate, Loop, Progress
from .losses import detection_losses
from .mask_points import PointDraws
from .model_files import BEST, LAST, MODEL, card, write_best, write_model
from .recipe import Recipe
from .state import TrainingState

__all__ = ["BEST", "LAST", "MODEL", "Evaluate", "Progress", "Trainer"]


@dataclass
class Trainer(Loop):
    """Trains the detector of ``recipe``; see :class:`.loop.Loop`."""

    recipe: Recipe
    compiler: ClassVar[str] = "inductor"  # of torch.compile, where the recipe asks for it

    def __post_init__(self) -> None:
        super().__post_init__()
        detector = self.state.detector
        self._features = detector.features
        self._outputs = detector.training_outputs
        if self.recipe.train.compile:
            _check_cuda_graph(self.recipe.train.cuda_graph, self.device)
            _check_compiler(self.compiler, self.device)
            # PyTorch's name for compiled code that runs as CUDA graphs
            mode = "reduce-overhead" if self.recipe.train.cuda_graph else None
            self._features, self._outputs = (
                torch.compile(part, backend=self.compiler, dynamic=False, mode=mode)
                for part in (detector.features, detector.training_outputs)
            )

    def new_state(self) -> TrainingState[Detector]:
        """The detector with the initial weights, and everything that changes with it."""
        return TrainingState.new(
            self.recipe, self.split, self.folder, self.initial, self.device, self.precision.dtype
        )

    def loss(self, batch: Batch, arch: Arch, draws: PointDraws) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted training loss of this rank's images of one micro-batch at ``arch``, and its
        parts.

        The denominators are those of the whole micro-batch, so losses and gradients of the ranks
        add up.
        """
        detector = self.state.detector
        config = self.recipe.train
        images = batch.images
        if config.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        if config.cuda_graph:  # the tensors of the pass before may be written over
            torch.compiler.cudagraph_mark_step_begin()
        with self._autocast(self.precision.dtype):
            maps = self._features(images, arch.patch, arch.windows)
        maps = [one.float() for one in maps]
        hw = (batch.images.shape[-2], batch.images.shape[-1])
        with self._autocast(self.precision.decoder):
            outputs = self._outputs(maps, hw, arch)
        if self.precision.decoder is not None:
            outputs = outputs.float()
        groups = detector.config.groups
        (objects,) = self.ranks.sum([sum(len(target.labels) for target in batch.targets)])
        with products(self.device, tf32=False):
            total, parts = detection_losses(
                outputs, batch.targets, groups, config, draws, max(1.0, objects * groups)
            )
        if self.state.dense is not None:
            summed, tokens = self.state.dense.loss(maps[0], batch.targets)
            dense = summed / max(1.0, *self.ranks.sum([tokens]))
            total = total + config.dense_weight * dense
            parts["dense"] = dense.detach()
        return total, parts

    def _autocast(self, dtype: torch.dtype | None) -> torch.autocast:
        """Products in ``dtype`` while the block runs; None: in the types of their factors."""
        kind = dtype or torch.bfloat16
        return torch.autocast(self.device.type, kind, enabled=dtype is not None)

    def write_best(self, model: Detector, notes: str) -> None:
        """Writes the detector with its card."""
        write_best(self.folder, model, card(self.state, self.recipe, self.split, notes))

    def export(self) -> Path:
        """Writes the run's model file (see :meth:`run`) and returns its path."""
        if self.ranks.rank == 0:
            write_model(self.folder, self.state, card(self.state, self.recipe, self.split))
        return self.folder / MODEL


def _check_cuda_graph(asked: bool, device: torch.device) -> None:
    """Raises :class:`InputError` where there are no CUDA graphs."""
    if asked and device.type != "cuda":
        raise InputError(
            f"cuda_graph=true needs a CUDA GPU, not {device}", hint="leave cuda_graph out"
        )


def _check_compiler(compiler: str, device: torch.device) -> None:
    """Raises :class:`InputError` where torch.compile lacks what it generates code with."""
    if compiler != "inductor":
        return
    if device.type == "cuda" and find_spec("triton") is None:
        raise InputError("compile=true needs Triton on a GPU", hint="pip install triton")
    if device.type == "cpu" and not any(
        shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++", "c++") if name
    ):
        raise InputError("compile=true needs a C++ compiler on the CPU", hint="install g++")
