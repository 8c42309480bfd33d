"""Records, the store that holds Records, and the statistics computed from Records.

No torch here.
"""

from __future__ import annotations

from rfdetr_repro.spec.lazy import lazily

__getattr__ = lazily(__name__, {"Record": "record", "Store": "store", "frame": "frames"})
