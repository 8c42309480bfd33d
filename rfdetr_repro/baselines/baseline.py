"""What a baseline is: another detector that can stand in the same table as ours.

A baseline is a method, such as D-FINE, with its sizes. :class:`Baseline` is all that the programs
ask of one; what a package registers under the entry-point group ``rfdetr_repro.baselines`` must
have these attributes. This module does not import PyTorch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import nn

    from rfdetr_repro.export.adopt.adoption import Categories
    from rfdetr_repro.export.artifact import Artifact
    from rfdetr_repro.export.onnx.nms import Nms
    from rfdetr_repro.records.record import ModelId

SEED = 0  # of random weights
FORMS = ("evaluated", "deployed")  # of a PyTorch module, see HasModule
ID = re.compile(r"[a-z0-9][a-z0-9._@-]*")


@dataclass(frozen=True)
class Size:
    """One model of a baseline, as a row of a table.

    Args:
        id: what ``--models`` calls the model, such as ``dfine-s``: small letters, digits and
            ``. _ @ -``.
        family: together with ``size`` and ``masks`` the key by which rows are joined with those
            of the paper's tables.
        name: the printed name of the method, such as ``D-FINE``.
        size: the printed size, such as ``S``.
        key: what the method's own program calls the size.
        num_classes: classes of the model with random weights.
        hw: height and width of the input in px.
        normalise: what the program does to RGB values in 0..1 before the first layer, one of
            ``rfdetr_repro.export.onnx.surgery.INPUTS``.
        form: what the exported file gives, one of ``rfdetr_repro.export.adopt.forms.FORMS``.
        masks: whether the model segments.
        params_m: millions of parameters, as the authors state them; None if they do not.
        gflops: GFLOPs of one image, as the authors state them; None if they do not.
        settings: what only the baseline itself understands.
    """

    id: str
    family: str
    name: str
    size: str
    key: str = ""
    num_classes: int = 80
    hw: tuple[int, int] = (640, 640)
    normalise: str = "none"
    form: str = "detr"
    masks: bool = False
    params_m: float | None = None
    gflops: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or not ID.fullmatch(self.id):
            raise ValueError(f"{self.id!r} is not a model name; it has to match {ID.pattern}")
        for name in ("family", "name", "size"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise ValueError(f"{name} of {self.id} is empty or not text")
        if len(self.hw) != 2 or any(not isinstance(side, int) or side < 1 for side in self.hw):
            raise ValueError(f"hw of {self.id} is {self.hw}, not two numbers of pixels")


@dataclass(frozen=True)
class ExportRequest:
    """What an artifact of a baseline is made of.

    Args:
        path: the artifact's file, which does not exist yet.
        model: what the manifest calls the model; ``weights`` is "random" or "trained".
        checkpoint: file of trained weights; None for random weights drawn from ``SEED``.
        categories: ids and names of the data set behind trained weights, if they are known.
        nms: suppression, for a baseline that ends with it.
        provider: name -> version of the distribution that has the baseline, for the manifest; empty
            for the baselines of this package.
    """

    path: Path
    model: ModelId
    checkpoint: Path | None
    categories: Categories | None
    nms: Nms
    provider: Mapping[str, str] = field(default_factory=dict)


@runtime_checkable
class Baseline(Protocol):
    """A method with its sizes.

    ``name``: the method's printed name. ``license``: of the program that is run. ``weights``: where
    trained weights come from, one sentence. ``sizes``: its models. ``suppression``: whether the
    artifact ends with non-maximum suppression; a model with random weights then gets a stated
    number of candidates. ``torch_only``: why the model runs in PyTorch only and no file can be made
    of it; empty for all others. A baseline with a reason has a ``module``, see :class:`HasModule`.
    """

    name: str
    license: str
    weights: str
    sizes: Sequence[Size]
    suppression: bool
    torch_only: str

    def export(self, size: Size, request: ExportRequest) -> Artifact:
        """Writes the artifact ``request.path`` with its manifest.

        :func:`rfdetr_repro.baselines.exporting.export_module` does it for a PyTorch module, and
        :func:`rfdetr_repro.baselines.exporting.adopt_export` for an ONNX file. Raises
        :class:`InputError` for a missing package or a checkpoint that does not fit.
        """
        ...


@runtime_checkable
class HasModule(Protocol):
    """A baseline whose models are PyTorch modules; their operations can then be counted."""

    def module(self, size: Size, form: str = "deployed") -> nn.Module:
        """Images (B, 3, H, W) -> boxes, logits[, masks], with random weights.

        ``form``: "evaluated" as the authors evaluate it, "deployed" as they export it. Under
        ``torch.device("meta")`` no weights are made.
        """
        ...


@runtime_checkable
class HasCounts(Protocol):
    """A baseline that runs in a process of its own and counts its operations there."""

    @property
    def cannot_count(self) -> str:
        """Why nothing can be counted here, such as a package that is not installed; else empty."""
        ...

    def counts(self, size: Size) -> Mapping[tuple[str, str], tuple[int, float]]:
        """(counter, form) -> parameters and operations of one image."""
        ...
