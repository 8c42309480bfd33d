"""Records as the studies of the claims write them."""

from __future__ import annotations

import base64

import numpy

from rfdetr_repro.claims.pairs import STUDY
from rfdetr_repro.records.record import Accuracy, DataId, ModelId, Record, Resampled
from rfdetr_repro.spec.arch import Arch

BASE = "r128-p16-w1-d2-q25"
VAL = DataId("embedded", "val", "ab" * 32, 150)


def study(
    ap: float,
    variant: str | None = None,
    seed: int | None = 0,
    arch: str = BASE,
    resampled: numpy.ndarray | None = None,
    **more,
) -> Record:
    """A Record as a study writes it."""
    kept = None
    if resampled is not None:
        text = base64.b64encode(numpy.rint(resampled * 65535).astype("<u2").tobytes()).decode()
        kept = Resampled("bootstrap", 150, len(resampled), 0, 1e9, "draws", text)
    accuracy = Accuracy(ap=ap, resampled=kept)
    given = {"source": STUDY, "campaign": STUDY, **more}
    return Record(
        model=ModelId(
            "rfdetr",
            f"rfdetr-{arch}",
            variant=variant,
            arch=Arch.parse(arch),
            checkpoint_sha256=f"{variant}{seed}",
        ),
        data=VAL,
        accuracy=accuracy,
        seed=seed,
        **given,
    )
