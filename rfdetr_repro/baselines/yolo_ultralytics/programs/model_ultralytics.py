"""Builds a model of ultralytics; imported by the programs beside this file, which are run by the
interpreter that has ultralytics.

Exit code 65: this version of ultralytics does not have the model, or cannot build the model; 66:
the weights are of another model.
"""

import copy
import sys
from typing import Any

import torch
import ultralytics
from ultralytics import YOLO

UNKNOWN = 65
OTHER_WEIGHTS = 66
EMBEDDING = 512  # numbers of a text embedding in YOLOE


def build(name: str, weights: str | None = None) -> Any:
    """The model ``name`` with random weights, or with those of the file ``weights``."""
    torch.manual_seed(0)
    try:
        named = YOLO(name + ".yaml")
    except Exception as error:  # whatever another version of the package makes of the name
        told = " ".join(str(error).split())
        print(f"ultralytics {ultralytics.__version__} has no {name}: {told}", file=sys.stderr)
        sys.exit(UNKNOWN)
    loaded = named if weights is None else _loaded(weights, named, name)
    if "yoloe" in name:
        _classes_of_yoloe(loaded, named=weights is None)
    return loaded


def deployed(model: Any) -> Any:
    """A copy of the model as the exported file holds it: normalisation folded, classes inside, and
    the branches for training and for prompts dropped.
    """
    fused = copy.deepcopy(model).eval()
    if hasattr(fused, "fuse"):
        fused = fused.fuse(verbose=False)
    head = fused.model[-1]
    if hasattr(head, "savpe"):  # the visual prompts of YOLOE
        if not head.is_fused:
            head.fuse(fused.pe)
        head.savpe = torch.nn.Identity()
    return fused


def params_of(model: Any) -> int:
    """Number of parameters of the model as it is."""
    return sum(parameter.numel() for parameter in model.parameters())


def _loaded(weights: str, named: Any, name: str) -> Any:
    """The model in the file ``weights``, if its layers are those of ``named``."""
    loaded = YOLO(weights)
    if _shape(named.model) != _shape(loaded.model):
        other, own = (_told(one.model) for one in (loaded, named))
        print(f"the weights are not of {name}: they have {other}, not {own}", file=sys.stderr)
        sys.exit(OTHER_WEIGHTS)
    return loaded


def _told(model: Any) -> str:
    return f"{params_of(model):,} parameters and the head {type(model.model[-1]).__name__}"


def _shape(model: Any) -> tuple[Any, ...]:
    """What tells one model from another whatever its classes are: the tensors before the head, the
    head's kind, and how the head codes a box.
    """
    head = model.model[-1]
    tensors = [tuple(value.shape) for value in model.model[:-1].state_dict().values()]
    coding = getattr(head, "reg_max", None), hasattr(head, "one2one_cv2")
    return tensors, type(head).__name__, coding


def _classes_of_yoloe(model: Any, named: bool) -> None:
    """Gives a YOLOE with random weights random classes; a file of weights must have its own."""
    if named:
        embeddings = torch.nn.functional.normalize(torch.randn(1, 80, EMBEDDING), dim=-1)
        model.set_classes([str(number) for number in range(80)], embeddings)
    elif not hasattr(model.model, "pe") and not getattr(model.model.model[-1], "is_fused", False):
        print(
            "the file has no classes: call set_classes with the names of the classes, and save the "
            "model, before the model is measured",
            file=sys.stderr,
        )
        sys.exit(OTHER_WEIGHTS)
