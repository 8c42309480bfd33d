"""YAML whose scalars all stay text, so that a class called ``no``, ``010`` or ``null`` keeps its
name.

YAML's own rules would make them False, 8 and None. Duplicate keys, references (``&``, ``*``; nested
references expand without limit), and files that are unreasonably large or deeply nested are
refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from rfdetr_repro.data.image_files import short
from rfdetr_repro.spec.errors import InputError, first_line
from rfdetr_repro.spec.files import open_input

MOST_BYTES = 4 << 20  # a list of 20,000 class names has 0.5 MB
ABSENT = ("", "null", "Null", "NULL", "~")  # how YAML writes nothing


class _TextLoader(yaml.BaseLoader):  # type: ignore[misc] # PyYAML has no types
    """Scalars as text; duplicate keys and references raise."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(
                None, None, "references (*name) are not read", self.peek_event().start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key is not a text", key.start_mark
                )
            if key.value in seen:
                problem = f"key {short(key.value)!r} occurs twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return dict(super().construct_mapping(node, deep=True))


def read_text_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; values are texts, and lists and mappings of texts.

    Raises :class:`InputError` for anything else.
    """
    with open_input(path) as stream:
        content = stream.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise InputError(
            f"a data file of more than {MOST_BYTES >> 20} MB",
            path,
            "write a file with the keys names, train and val only",
        )
    try:
        described = yaml.load(content, Loader=_TextLoader)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InputError(
            f"not YAML ({error.problem})", f"{path}{line}", "write the file again"
        ) from error
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(
            f"not YAML ({short(first_line(error))})", path, "write the file again"
        ) from error
    except RecursionError as error:
        raise InputError(
            "not a YOLO data file: it is nested too deeply", path, "write the file again"
        ) from error
    if not isinstance(described, dict):
        raise InputError(
            "not a YOLO data file", path, "write a file with the keys names, train and val"
        )
    return described


def given(value: Any) -> bool:
    """Whether an entry has a value."""
    return value is not None and value not in ABSENT and value != []
