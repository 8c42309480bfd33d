"""The form of a fault for the CUDA sources."""

from __future__ import annotations

from typing import NamedTuple


class Fault(NamedTuple):
    """``old`` stands in ``file`` under csrc/ exactly ``times`` times and becomes ``new``.
    ``found_by`` names tests of TESTS, in the order in which they are tried.
    """

    name: str
    file: str
    old: str
    new: str
    found_by: tuple[str, ...]
    times: int = 1
