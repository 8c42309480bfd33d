"""What is this distribution's own: the operators' namespace in ``torch.ops``, and their errors.

The modules beside this file are those of ``rfdetr_repro.ops``, and the library is compiled from the
same sources.
"""

from __future__ import annotations

NAMESPACE = "rfdetr_ops"


class InputError(Exception):
    """A call that cannot be answered: what is wrong, where, and what to do about it."""

    def __init__(self, what: str, where: object = "", hint: str = "") -> None:
        """Builds the line ``what (where); hint``."""
        placed = f"{what} ({where})" if where else what
        line = f"{placed}; {hint}" if hint else placed
        super().__init__(" ".join(line.split()))


class LibraryNotBuilt(InputError, ImportError):
    """The compiled library is missing or does not load."""

    def __init__(self, what: str, where: object = "") -> None:
        """``what`` is missing or does not load."""
        super().__init__(what, where, "install rfdetr-ops again, for this platform")
