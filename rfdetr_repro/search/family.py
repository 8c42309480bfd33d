"""Patch sizes that training never drew: their architectures and their Records.

The patch kernel is resampled to each size, as for trained sizes; nothing is learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rfdetr_repro.records.record import NEVER_TRAINED, Record
from rfdetr_repro.spec.arch import Arch, SearchSpace
from rfdetr_repro.spec.errors import InputError


def never_trained(
    space: SearchSpace, patches: Sequence[int], resolutions: Sequence[int] = ()
) -> list[Arch]:
    """Architectures with those of ``patches`` that the space lacks, each with the space's largest
    decoder.
    """
    fresh = [patch for patch in patches if patch not in space.patches]
    if not fresh:
        raise InputError(
            "all these patch sizes were trained",
            hint=f"give patch sizes other than {', '.join(map(str, space.patches))}",
        )
    depth = (max(space.decoder_layers),)
    queries = (max(space.queries),)
    wanted = replace(
        space, patches=tuple(fresh), resolutions=tuple(resolutions) or space.resolutions
    )
    return list(replace(wanted, decoder_layers=depth, queries=queries).check())


def between(space: SearchSpace) -> list[int]:
    """Patch sizes in steps of two, from one step below the trained sizes to two above them, without
    the trained sizes.
    """
    low = min(space.patches)
    high = max(space.patches)
    return [patch for patch in range(max(2, low - 2), high + 5, 2) if patch not in space.patches]


def evaluate(search: Any, archs: Sequence[Arch]) -> list[Record]:
    """A Record of each architecture, with accuracy by the shared pass and without latency; stored
    Records are not computed again.
    """
    from rfdetr_repro.search.evaluation import Whole

    done = {record.id: record for record in search.store.read()}
    wanted = {}
    for arch in archs:
        plain = search.record("search", arch)
        wanted[arch] = replace(plain, model=replace(plain.model, variant=NEVER_TRAINED))
    missing = [Whole((arch,)) for arch in archs if wanted[arch].id not in done]
    for item, result in search.results(missing):
        (arch,) = item.archs
        accuracy = result[arch]
        found = replace(wanted[arch], accuracy=accuracy["bbox"], mask_accuracy=accuracy.get("segm"))
        done[found.id] = search.store.append(found)
    return [done[wanted[arch].id] for arch in archs]
