"""embedded-10: ten small data sets of different kinds, drawn from a seed.

They stand for the variety of benchmarks of many data sets, at a size that a laptop composes in
seconds: known objects, unseen objects, crowded small objects, few large objects, a thermal look, a
view from above, pages of documents, microscopy, night with motion blur, and forty classes (with a
counterpart of three classes on the same pictures). :mod:`.kinds` describes each kind, what it
resembles, and what it does not claim to be. The scale is small and the pictures are synthetic: AP
on them compares models on these pictures and says nothing about photographs.
"""

from __future__ import annotations

from rfdetr_repro.spec.lazy import lazily

__getattr__ = lazily(
    __name__,
    {
        "DOMAINS": "kinds",
        "Domain": "domain",
        "DomainConfig": "dataset",
        "TEN": "kinds",
        "write_domain": "dataset",
    },
)
