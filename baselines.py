"""Where the baselines were until version 0.2; they are in ``rfdetr_repro.baselines``.

This file makes ``import baselines`` work in the repository's root, with a warning, until version
0.3.
"""

from __future__ import annotations

import warnings

import rfdetr_repro.moved

__path__: list[str] = []  # makes this a package, whose modules rfdetr_repro.moved knows

rfdetr_repro.moved.install()
warnings.warn(
    "baselines is now rfdetr_repro.baselines; the old name goes with version 0.3",
    DeprecationWarning,
    stacklevel=2,
)
