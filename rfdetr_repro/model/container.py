"""Checkpoint containers: safetensors, and PyTorch pickles read without executing anything.

A pickle may hold tensors, plain Python values and ``argparse.Namespace`` (what upstream writes); any other global is refused by
name before it is imported.
"""

from __future__ import annotations

import argparse
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import InputError
from ..files import open_input

ALLOWED_GLOBALS: list[Any] = [argparse.Namespace]
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)|global (?:symbol )?[`']?([\w.]+\.[\w.]+)")
RESAVE = 'save it again as {"model": state_dict, "args": dict of plain values}'


def read_container(path: str | Path) -> dict[str, Any]:
    """What a checkpoint file holds, as a dict. A safetensors file gives {"model": tensors, "metadata": {str: str}}.

    Missing, empty, truncated and foreign files, and pickles with a foreign global, raise :class:`InputError`.
    """
    with open_input(path) as stream:
        head = stream.read(16)
    if not head:
        raise InputError("the checkpoint is empty", path, "copy or download it again")
    if head[8:9] == b"{":  # safetensors: 8 bytes of header length, then JSON
        return _read_safetensors(path)
    return _read_pickle(path)


def _read_safetensors(path: str | Path) -> dict[str, Any]:
    try:
        with safe_open(str(path), framework="pt") as stream:
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (not a dict)
            return {"model": tensors, "metadata": stream.metadata() or {}}
    except (SafetensorError, OSError) as error:
        raise InputError(f"corrupt checkpoint: {error}", path, "copy or download it again") from error


def _read_pickle(path: str | Path) -> dict[str, Any]:
    try:
        with torch.serialization.safe_globals(ALLOWED_GLOBALS):
            content = torch.load(str(path), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if foreign := _foreign_globals(path, str(error)):
            raise InputError(f"the file wants to load {foreign}, which is refused", path, RESAVE) from error
        raise InputError("not a checkpoint of tensors and plain values", path, "give a PyTorch or safetensors file") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise InputError(f"corrupt checkpoint: {_first_line(error)}", path, "copy or download it again") from error
    if not isinstance(content, dict):
        raise InputError(f"the checkpoint holds a {type(content).__name__}, not a dictionary", path, RESAVE)
    return content


def _foreign_globals(path: str | Path, message: str) -> str:
    """Names of the globals outside the allowed ones, as far as they can be told without loading."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except (RuntimeError, ValueError, OSError, pickle.UnpicklingError, EOFError):  # not a zip file: what the message says
        found = _GLOBAL.search(message)
        names = [name for name in (found.groups() if found else ()) if name]
    allowed = {f"{item.__module__}.{item.__qualname__}" for item in ALLOWED_GLOBALS}
    return ", ".join(name for name in names if name not in allowed)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]


def model_state(content: dict[str, Any], path: str | Path) -> dict[str, Tensor]:
    """The model's tensors inside ``content``: under "model" or "state_dict" (Lightning), or the whole of it.

    Cuts the prefixes of data-parallel and Lightning wrappers. LoRA weights must be merged first.
    """
    state = content
    for key in ("model", "state_dict"):
        if isinstance(content.get(key), dict):
            state = content[key]
            break
    tensors = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise InputError("no weights", path, f"found only {', '.join(map(str, list(content)[:6]))}")
    if any("lora_" in name or ".base_model." in name for name in tensors):
        raise InputError("LoRA weights that are not merged", path, "merge them into the model, then save it again")
    for prefix in ("module.", "_orig_mod.", "model."):
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name[len(prefix) :]: value for name, value in tensors.items()}
    return {name: value for name, value in tensors.items() if not name.endswith("_kp_active_mask")}


def arguments(content: dict[str, Any]) -> dict[str, Any]:
    """Plain values the file says about its model: upstream's ``args`` and ``model_config``, later ones first."""
    values: dict[str, Any] = {}
    for key in ("args", "model_config"):
        part = content.get(key)
        values |= vars(part) if isinstance(part, argparse.Namespace) else part if isinstance(part, dict) else {}
    for key in ("rfdetr_version", "model_name", "class_names"):
        if content.get(key) is not None:
            values[key] = content[key]
    return values
