"""RF-DETR from data to a measured Pareto front.

``from rfdetr_repro import RFDETR`` is the interface that upstream's users know; the other names are
listed in ``__all__``. Each name is loaded when it is asked for, so that tables, plots and reports
need no PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from rfdetr_repro.moved import install

__version__ = "0.2.0"
install()  # names of modules before version 0.2

if TYPE_CHECKING:
    from rfdetr_repro.api import RFDETR as RFDETR
    from rfdetr_repro.bench.interleaved import measure as measure
    from rfdetr_repro.export.artifact import load_artifact as load_artifact
    from rfdetr_repro.records.record import Record as Record
    from rfdetr_repro.records.store import Store as Store
    from rfdetr_repro.runtime.backends import open_session as open_session
    from rfdetr_repro.search.request import SearchRequest as SearchRequest
    from rfdetr_repro.search.run import SearchResult as SearchResult
    from rfdetr_repro.search.run import run_search as run_search
    from rfdetr_repro.spec.arch import Arch as Arch
    from rfdetr_repro.spec.arch import SearchSpace as SearchSpace
    from rfdetr_repro.spec.campaign import Campaign as Campaign
    from rfdetr_repro.spec.errors import InputError as InputError
    from rfdetr_repro.spec.protocol import Protocol as Protocol
    from rfdetr_repro.train.callbacks import TrainingCallback as TrainingCallback

_HOMES = {
    "Arch": "spec.arch",
    "Campaign": "spec.campaign",
    "InputError": "spec.errors",
    "Protocol": "spec.protocol",
    "RFDETR": "api",
    "Record": "records.record",
    "SearchRequest": "search.request",
    "SearchResult": "search.run",
    "SearchSpace": "spec.arch",
    "Store": "records.store",
    "TrainingCallback": "train.callbacks",
    "load_artifact": "export.artifact",
    "measure": "bench.interleaved",
    "open_session": "runtime.backends",
    "run_search": "search.run",
}
__all__ = [
    "RFDETR",
    "Arch",
    "Campaign",
    "InputError",
    "Protocol",
    "Record",
    "SearchRequest",
    "SearchResult",
    "SearchSpace",
    "Store",
    "TrainingCallback",
    "__version__",
    "load_artifact",
    "measure",
    "open_session",
    "run_search",
]


def __getattr__(name: str) -> Any:
    """Loads a public name; upstream's class names, such as ``RFDETRNano``, are known too."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    if name.startswith("RFDETR"):
        from rfdetr_repro.api.upstream_classes import upstream_class

        return upstream_class(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
