"""Checkpoint containers: the kind of the file, the tensors of its model, and what the file states
about the model.

Containers are safetensors, PyTorch files (read by :mod:`.unpickle`, which executes nothing) and,
next to a safetensors file, the ``config.json`` of Hugging Face transformers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import open_input, parse_json, read_input, refuse_stand_in

from .tensor_files import check_length, read_safetensors
from .unpickle import RESAVE, Fields, read_pickle

# Components that wrappers put into parameter names, in any order and at any depth; no model here
# has such a component.
_WRAPPERS = {
    "module",
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
    "_forward_module",
}
# One parameter of each layout; whatever precedes it in a name is a wrapper's prefix.
_ANCHORS = (
    "transformer.decoder.norm.weight",
    "decoder.layernorm.weight",
    "embeddings.position_embeddings",
    "pos_embed",
)
_NESTED = 4  # levels of dictionaries to search for weights
_NOT_WEIGHTS = re.compile(r"optim|lr_sched|loops|hyper_param|args|model_config")
_EMA = re.compile(r"(?<![a-zA-Z])ema(?![a-z])|EMA|Ema(?![a-z])|averag", re.ASCII)
# an empty buffer of upstream, and the counter of torch's AveragedModel
_NO_WEIGHTS = ("_kp_active_mask", "n_averaged")
CONFIG_JSON = "config.json"


def read_container(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint file as a dict. A safetensors file gives {"model": tensors,
    "metadata": {str: str}}.

    Raises :class:`InputError` for missing, empty and truncated files, for files of other kinds, and
    for pickles with a global outside plain data.
    """
    with open_input(path) as stream:
        check_length(stream, path)
        head = stream.read(256)
    if not head:
        raise InputError("the checkpoint is empty", path, "copy or download it again")
    refuse_stand_in(head, path)
    if head[8:9] == b"{":  # safetensors: 8 bytes of header length, then JSON
        return _read_safetensors(path)
    content = read_pickle(path)
    if not isinstance(content, dict):
        raise InputError(
            f"the checkpoint holds a {type(content).__name__}, not a dictionary", path, RESAVE
        )
    return content


def weights_file(path: str | Path) -> Path:
    """``path`` itself, or the ``model.safetensors`` of a folder that transformers wrote."""
    inside = Path(path) / "model.safetensors"
    return inside if inside.is_file() else Path(path)


def _read_safetensors(path: str | Path) -> dict[str, Any]:
    tensors, metadata = read_safetensors(path, "copy or download it again")
    content: dict[str, Any] = {"model": tensors, "metadata": metadata}
    config_path = Path(path).with_name(CONFIG_JSON)
    if config_path.is_file():
        content[CONFIG_JSON] = _read_json(config_path)
    return content


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = parse_json(read_input(path))
    except (OSError, ValueError) as error:
        raise InputError(
            f"unreadable {CONFIG_JSON} in the folder of the weights: {error}",
            path,
            "copy the file again, or remove it",
        ) from error
    return found if isinstance(found, dict) else {}


# -- weights ---------------------------------------------------------------------------------------


def chosen_weights(content: dict[str, Any], path: str | Path) -> tuple[dict[str, Tensor], str]:
    """The model's tensors, without the prefixes of wrappers, and a note for the user that states
    which weights were chosen; the note is empty where there was no choice.

    Weights may be at the top, under "model" or "state_dict", or deeper. An exponential moving
    average is preferred to raw weights in the same file. Raises :class:`InputError` where the file
    holds no weights, several equally suitable sets of weights, or LoRA weights that are not merged.
    """
    try:
        found = list(_candidates(content)) or _anything(content)
    except InputError as error:
        raise error.at(path) from error
    if not found:
        raise InputError("no weights", path, f"found only {', '.join(map(str, list(content)[:6]))}")
    found.sort(key=lambda one: _rank(one[0], content))
    where, tensors = found[0]
    if alike := [
        "/".join(place) for place, _ in found if _rank(place, content) == _rank(where, content)
    ][1:]:
        listed = ", ".join(["/".join(where), *alike])
        raise InputError(
            f"several sets of weights ({listed}), none called the model",
            path,
            'save the set that you mean as {"model": ...}',
        )
    if any("lora_" in name or ".base_model." in name for name in tensors):
        raise InputError(
            "LoRA weights that are not merged",
            path,
            "merge them into the model, then save it again",
        )
    tensors = {name: value for name, value in tensors.items() if not name.endswith(_NO_WEIGHTS)}
    kind = "the EMA weights" if _EMA.search(".".join(where)) else "the weights"
    others = sorted({"/".join(place) for place, _ in found if place != where})
    averaged = any(_EMA.search(".".join(place)) for place, _ in found)
    note = (
        f"{kind} under {'/'.join(where)!r}; not {', '.join(map(repr, others))}"
        if others and averaged
        else ""
    )
    return tensors, note


def _rank(where: tuple[str, ...], content: dict[str, Any]) -> tuple[Any, ...]:
    """Sort key of candidates: what the file calls its model, or that model's moving average, comes
    first.

    Lightning keeps moving averages in the state of a callback: these count only where nothing is
    called "model", because upstream's files of best weights hold both, with the chosen weights
    under "model".
    """
    average = bool(_EMA.search(".".join(where)))
    if where and where[0] == "callbacks" and "model" in content:
        average = False
    order = ("model", "state_dict", "model_state_dict")
    first = where[0] if where else ""
    return (
        not average,
        first == "callbacks",
        order.index(first) if first in order else len(order),
        len(where),
    )


def _candidates(
    content: Mapping[Any, Any], where: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Yields (place, tensors) of each set of weights with an anchor, nested dictionaries
    included.
    """
    tensors = _tensors(content)
    prefixes = _prefixes(tensors)
    for prefix in prefixes:
        longer = tuple(one for one in prefixes if len(one) > len(prefix))
        own_names = [
            name
            for name in tensors
            if name.startswith(prefix) and not (longer and name.startswith(longer))
        ]
        cut = {name[len(prefix) :]: tensors[name] for name in own_names}
        named = prefix.strip(".")
        yield (*where, named) if named and named != "model" else where, cut
    if len(where) < _NESTED:
        for name, value in content.items():
            if isinstance(value, Mapping) and not _NOT_WEIGHTS.match(str(name)):
                yield from _candidates(value, (*where, str(name)))


def _tensors(content: Mapping[Any, Any]) -> dict[str, Tensor]:
    """The tensors by their names without the components of wrappers; raises :class:`InputError`
    for a name that then occurs twice.
    """
    tensors: dict[str, Tensor] = {}
    for name, value in content.items():
        if not isinstance(value, Tensor):
            continue
        short = _unwrapped(str(name))
        if short in tensors:
            what = f"the weights hold {short} twice, with and without the prefix of a wrapper"
            raise InputError(what, hint=RESAVE)
        tensors[short] = value
    return tensors


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _prefixes(tensors: dict[str, Tensor]) -> list[str]:
    """The prefixes before the first anchor that occurs among the names; a layout's own "model."
    stays part of the name.
    """
    for anchor in _ANCHORS:
        found = {
            name[: -len(anchor)]
            for name in tensors
            if name == anchor or name.endswith(f".{anchor}")
        }
        # transformers: some of its names begin with "model.", others do not
        if anchor == "decoder.layernorm.weight":
            found = {re.sub(r"(^|\.)(model\.)+$", r"\1", prefix) for prefix in found}
        elif anchor in (
            "embeddings.position_embeddings",
            "pos_embed",
        ):  # encoders: their own prefixes are cut elsewhere
            found = {""} if found else set()
        if found:
            return sorted(found)
    return []


def _anything(content: dict[str, Any]) -> list[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Tensors of another model: under "model" or "state_dict", or at the top. The caller reports
    what is missing.
    """
    for key in ("model", "state_dict", ""):
        state = content.get(key, {}) if key else content
        if isinstance(state, Mapping):
            tensors = _tensors(state)
            if tensors:
                return [((key,) if key else (), tensors)]
    return []


# -- statements of the file ------------------------------------------------------------------------


def arguments(content: dict[str, Any]) -> dict[str, Any]:
    """Plain values that the file states about its model: upstream's ``args`` and ``model_config``;
    later values win.

    Lightning stores these in ``hyper_parameters``, flat or by part; transformers in the
    ``config.json`` next to the file.
    """
    values: dict[str, Any] = {}
    hyper = _fields(content.get("hyper_parameters"))
    parts = [hyper, *(hyper.get(name) for name in ("train_config", "args", "model_config"))]
    for part in (*parts, content.get("args"), content.get("model_config")):
        values |= {
            name: value
            for name, value in _fields(part).items()
            if value is not None or name not in values
        }
    for key in ("rfdetr_version", "model_name", "class_names"):
        if content.get(key) is not None:
            values[key] = content[key]
    names = _fields(content.get(CONFIG_JSON)).get("id2label")
    if isinstance(names, Mapping) and not all(
        re.fullmatch(r"LABEL_\d+", str(name)) for name in names.values()
    ):
        values["id2label"] = names  # names like LABEL_0 are placeholders of transformers
    return values


def _fields(part: Any) -> dict[str, Any]:
    if isinstance(part, Fields):
        return dict(vars(part))
    return dict(part) if isinstance(part, Mapping) else {}
