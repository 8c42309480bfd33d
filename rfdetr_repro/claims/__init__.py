"""The causal claims of the paper, each with what decides it and a verdict from stored Records.

No torch here.
"""

from __future__ import annotations

from rfdetr_repro.spec.lazy import lazily

__getattr__ = lazily(__name__, {"CLAIMS": "catalog", "judged": "verdicts"})
