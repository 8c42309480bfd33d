"""One file per model: safetensors with the model's configuration as metadata.

Loading executes nothing from the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from rfdetr_repro.model.detector import Detector
from rfdetr_repro.spec.arch import Arch, SearchSpace
from rfdetr_repro.spec.codec import decode
from rfdetr_repro.spec.errors import FULL, InputError
from rfdetr_repro.spec.files import atomic_path, parse_json, sha256_file
from rfdetr_repro.spec.model_config import ModelConfig
from rfdetr_repro.spec.ranges import check_classes
from rfdetr_repro.spec.resize_rules import ANTIALIASED

from .tensor_files import read_safetensors

FORMAT = "rfdetr_repro/1"
FLOATS = {
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
}  # types that weights may have


@dataclass(frozen=True)
class ModelCard:
    """What a checkpoint states about its model.

    Class index i is called ``class_names[i]`` and means category ``category_ids[i]`` of the data.
    """

    config: ModelConfig
    arch: Arch  # the architecture that runs unless a call names another
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    space: SearchSpace | None = None  # the space that the weights were trained for
    train_data_sha256: str | None = None
    steps: int | None = None
    notes: str = ""
    # how pictures are resized, a rule of resize_rules; None: antialiased, as in the training here
    resize: str | None = None
    # what training steps computed in, such as "float32" or "bfloat16 backbone, TF32 decoder"; of a
    # run that was resumed in another precision, all of them; None: unknown
    precision: str | None = None

    def to_json(self) -> str:
        """The card as JSON with sorted keys."""
        fields = {**asdict(self), "config": self.config.stated()}
        for name in ("resize", "precision"):
            if fields[name] is None:
                del fields[name]
        return json.dumps(fields, sort_keys=True)

    @property
    def resize_rule(self) -> str:
        """The rule of resize_rules by which pictures are resized."""
        return self.resize or ANTIALIASED

    @classmethod
    def from_json(cls, text: str) -> ModelCard:
        """Inverse of :meth:`to_json`. Raises ValueError or TypeError for anything else."""
        card = decode(cls, parse_json(text))
        check_classes(card.class_names, card.category_ids)
        if card.steps is not None and not 0 <= card.steps < 2**63:
            raise ValueError(f"{str(card.steps)[:20]} steps of training")
        return card


def write_tensors(path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Writes a safetensors file atomically; metadata are strings.

    Equal content gives equal bytes, and so the same SHA-256. A tensor with several names is written
    once per name. Raises :class:`InputError` where the file cannot be written.
    """
    whole: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, tensor in tensors.items():
        own = tensor.detach().contiguous()
        whole[name] = own.clone() if own.data_ptr() in places else own
        places.add(own.data_ptr())
    with atomic_path(path) as temporary:
        try:
            save_file(whole, str(temporary), metadata={"format": FORMAT, **metadata})
            _sort_metadata(temporary)
        except SafetensorError as error:  # raised for a full disk too
            raise _unwritable(error, path) from error


def _unwritable(error: SafetensorError, path: str | Path) -> InputError:
    """The cause of the error, in the operating system's words where the library passes on the error
    number.
    """
    found = re.search(r"os error (\d+)", str(error))
    number = int(found[1]) if found else 0
    cause = os.strerror(number) if number else str(error).removeprefix("Error while serializing: ")
    kept = "what was there before is kept"
    return InputError(
        f"cannot write: {cause}", path, f"free some space; {kept}" if number in FULL else kept
    )


def _sort_metadata(path: Path) -> None:
    """Sorts the metadata of a safetensors file alphabetically, in place; the library writes them in
    random order.

    The file begins with the length of its header, an unsigned 64-bit integer, and the header, JSON
    padded with spaces.
    """
    with path.open("r+b") as stream:
        (size,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(size))
        header = {"__metadata__": dict(sorted(header.pop("__metadata__").items())), **header}
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(size)
        if len(text) != size:
            raise InputError("sorting the metadata changed the length of the file's header", path)
        stream.seek(8)
        stream.write(text)


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file that this package wrote. Raises :class:`InputError`, with the
    path, for anything else.
    """
    if not os.path.lexists(path):
        raise InputError("no such checkpoint", path, "check the path, or train a model first")
    tensors, metadata = read_safetensors(path, "copy the file again, or train again")
    if metadata.get("format") != FORMAT:
        raise InputError(
            "a safetensors file that this package did not write",
            path,
            f"its metadata should state format {FORMAT}",
        )
    return tensors, metadata


def save_detector(path: str | Path, state: dict[str, Tensor], card: ModelCard) -> str:
    """Writes weights and card; returns the file's SHA-256."""
    write_tensors(path, state, {"card": card.to_json()})
    return sha256_file(path)


def load_supernet(path: str | Path) -> tuple[Detector, ModelCard, str]:
    """A detector in evaluation mode, its card, and the file's SHA-256. Raises :class:`InputError`
    where the file does not hold a model of this package.
    """
    tensors, metadata = read_tensors(path)
    if "card" not in metadata:
        raise InputError(
            "this file holds a training state, not a model", path, "use RUN/supernet.safetensors"
        )
    try:
        card = ModelCard.from_json(metadata["card"])
        _compare_shapes(tensors, card)
        detector = Detector(card.config, card.arch)
        detector.load_state_dict(tensors)
    except InputError as error:
        raise error.at(path) from error
    except (RuntimeError, TypeError, KeyError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(
            f"checkpoint does not fit its own description: {str(error)[:200]}",
            path,
            "train the model again",
        ) from error
    return detector.eval(), card, sha256_file(path)


def _compare_shapes(tensors: dict[str, Tensor], card: ModelCard) -> None:
    """Raises ValueError unless the file holds the tensors of the model that its card describes.
    Allocates no memory for the model.
    """
    with torch.device("meta"):
        described = Detector(card.config, card.arch).state_dict()
    if missing := sorted(described.keys() - tensors.keys()):
        raise ValueError(f"{missing[0]} is missing")
    for name, tensor in described.items():
        if tensors[name].shape != tensor.shape:
            raise ValueError(
                f"{name} is {tuple(tensors[name].shape)} instead of {tuple(tensor.shape)}"
            )
    check_numbers({name: tensors[name] for name in described}, described)


def check_numbers(tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Raises :class:`InputError` unless each tensor is finite and has a type that converts to the
    expected type without a change of meaning.

    Weights have a floating type of at least 16 bits. Integers, booleans, complex numbers and floats
    of 8 bits need scales, or an interpretation that no file states.
    """
    for name, like in expected.items():
        tensor = tensors[name]
        if tensor.dtype not in FLOATS if like.is_floating_point() else tensor.dtype != like.dtype:
            raise InputError(
                f"{name} is {tensor.dtype} instead of {like.dtype}",
                hint="save the model in float32 or float16",
            )
        if like.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(
                f"the weights hold values that are not finite, for example in {name}",
                hint="take an earlier checkpoint",
            )
        if (
            like.dtype == torch.float32
            and tensor.dtype == torch.float64
            and not bool(torch.isfinite(tensor.float()).all())
        ):
            raise InputError(
                f"{name} holds values beyond the range of float32",
                hint="take an earlier checkpoint",
            )


def sha256_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Hash of names, types, shapes and values, as 64 hex digits; the order of the dictionary does
    not matter.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
