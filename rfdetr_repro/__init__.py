"""RF-DETR from data to a measured Pareto front. ``from rfdetr_repro import RFDETR`` is the interface upstream's users know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import RFDETR as RFDETR


def __getattr__(name: str) -> Any:
    """Loads the interface, and with it torch, when it is asked for: tables, plots and reports need none of it."""
    if name == "RFDETR":
        from .api import RFDETR

        return RFDETR
    if name.startswith("RFDETR"):
        from .upstream_classes import upstream_class

        return upstream_class(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
