"""Baselines that are models of the package transformers, which is imported when one is built.

Weights are drawn from ``SEED`` or come from a safetensors file in transformers' names; nothing is
downloaded or unpickled. No torch here until a model is built.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rfdetr_repro.spec.errors import InputError

from .baseline import SEED, ExportRequest, Size
from .card import Card, CardBaseline

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rfdetr_repro.export.artifact import Artifact

PACKAGE = "transformers"


class LibraryBaseline(CardBaseline):
    """A baseline with an adapter: a module that has ``build(key, num_classes)``, which returns the
    library's model, and for each of FORMS a function from that model to a module images -> boxes,
    logits[, masks].
    """

    def __init__(
        self,
        card: Card,
        adapter: str,
        *,
        class_head: str = "",
        dynamo: bool = False,
        since: str = "5",
    ) -> None:
        """``adapter``: name of the adapter, which is imported when a model is built.
        ``class_head``: name of the tensor whose rows are the classes. ``dynamo``: whether
        PyTorch's newer exporter is the one that works. ``since``: the first version of transformers
        that has the model.
        """
        super().__init__(card)
        self.class_head = class_head
        self._adapter = adapter
        self._dynamo = dynamo
        self._since = since

    @property
    def adapter(self) -> Any:
        """The module that builds."""
        return importlib.import_module(self._adapter)

    def build(self, size: Size, num_classes: int) -> Any:
        """The library's model with weights as its own initialisation draws them."""
        return self.adapter.build(size.key, num_classes)

    def library_model(self, size: Size, checkpoint: str | Path | None = None) -> Any:
        """The library's model, with random weights or those of ``checkpoint``, whose number of
        classes it takes.

        Raises :class:`InputError` if transformers is missing or the file does not fit.
        """
        import torch

        tensors = {} if checkpoint is None else weights_of(checkpoint)
        if tensors and self.class_head not in tensors:
            raise InputError(
                f"the file has no {self.class_head}",
                checkpoint,
                f"give {self.name} as transformers saves it",
            )
        torch.manual_seed(SEED)
        classes = len(tensors[self.class_head]) if tensors else size.num_classes
        try:
            model = self.build(size, classes)
        except ImportError as error:
            raise InputError(
                f"{size.id} needs transformers {self._since} or later ({error})",
                hint=f"pip install 'transformers>={self._since}'",
            ) from error
        if tensors:
            _load(model, tensors, checkpoint)
        return model

    def module(
        self, size: Size, form: str = "deployed", checkpoint: str | Path | None = None
    ) -> nn.Module:
        """Images (B, 3, H, W) -> boxes, logits[, masks], as one of FORMS."""
        made: nn.Module = getattr(self.adapter, form)(self.library_model(size, checkpoint))
        return made

    def export(self, size: Size, request: ExportRequest) -> Artifact:
        """Exported by PyTorch, then adopted."""
        from .exporting import export_module

        detector = self.module(size, "deployed", request.checkpoint)
        return export_module(detector, size, request, dynamo=self._dynamo, packages=(PACKAGE,))


def weights_of(checkpoint: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file in transformers' names, by name. Raises :class:`InputError`
    for any other file.
    """
    from rfdetr_repro.model.checkpoints.container import read_container

    if Path(checkpoint).suffix != ".safetensors":
        raise InputError(
            "weights of a baseline must be safetensors",
            checkpoint,
            "save them with transformers' save_pretrained",
        )
    tensors: dict[str, Tensor] = read_container(checkpoint)["model"]
    return tensors


def _load(model: nn.Module, tensors: dict[str, Tensor], checkpoint: Any) -> None:
    """Every tensor of ``model`` from the file; parameters that the model shares between names need
    one of the names.
    """
    expected = model.state_dict()
    unknown = sorted(tensors.keys() - expected.keys())
    present = {expected[key].data_ptr() for key in expected.keys() & tensors.keys()}
    missing = [
        key
        for key, value in expected.items()
        if value.data_ptr() not in present and "num_batches_tracked" not in key
    ]
    if missing or unknown:
        counts = f"{len(missing)} tensors missing, {len(unknown)} unknown"
        raise InputError(
            f"{counts}, such as {[*missing, *unknown][0]}",
            checkpoint,
            "name the size that the file is of",
        )
    for key, value in tensors.items():
        if value.shape != expected[key].shape:
            shapes = f"{list(value.shape)}, not {list(expected[key].shape)}"
            raise InputError(
                f"{key} has the shape {shapes}", checkpoint, "name the size that the file is of"
            )
    model.load_state_dict(tensors, strict=False)
