"""``--set NAME=VALUE`` on a command line: any field of ``TrainConfig``, with its own type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.ranges import choose
from rfdetr_repro.spec.train_config import TrainConfig

_TRUTH = {"true": True, "false": False, "1": True, "0": False}


def with_settings(config: TrainConfig, given: Sequence[str]) -> TrainConfig:
    """``config`` with the settings ``given``, texts like "lr=2e-4".

    Raises :class:`InputError` for an unknown name, and for a value of another type.
    """
    changes: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"{text!r} is not a setting", hint="write NAME=VALUE, like lr=2e-4")
        choose(name, TrainConfig.__dataclass_fields__, "setting")
        changes[name] = _parsed(value, type(getattr(config, name)), text)
    return replace(config, **changes)


def _parsed(value: str, kind: type, text: str) -> Any:
    try:
        return _TRUTH[value.lower()] if kind is bool else kind(value)
    except (ValueError, KeyError) as error:
        raise InputError(f"{text!r} is not {kind.__name__}") from error
