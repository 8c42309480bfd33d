"""Docstrings name other objects as ``:class:`Arch```; the Python reference shows such a name as
code.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:py:)?(?:class|meth|func|mod|attr|data|exc):`~?\.?([^`]+)`")


class Roles(griffe.Extension):
    """Rewrites the roles of every docstring."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for each object that was read."""
        if obj.docstring is not None:
            obj.docstring.value = _ROLE.sub(r"`\1`", obj.docstring.value)
