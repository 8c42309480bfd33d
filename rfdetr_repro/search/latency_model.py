"""Latency of every architecture from a few measured engines, as a sum of non-negative parts.

    latency = backbone(input, patch, windows) + decoder layers x (1, queries, tokens)
        + mask head(mask map, layers, queries)

Each part is linear in known amounts of work: tokens, attention pairs, pixels. The coefficients come
from non-negative least squares on relative errors, so that more work never costs less. The
cross-validation error, which is stored with every prediction, shows how much the sum misses.
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import nnls

from rfdetr_repro.records.record import Latency
from rfdetr_repro.spec.arch import Arch, SearchSpace
from rfdetr_repro.spec.backbone_kinds import kind_of
from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.spec.files import parse_json
from rfdetr_repro.spec.metrics import share
from rfdetr_repro.spec.model_config import ModelConfig

Backbone = tuple[int, int, int, int]  # Arch.backbone


class RelativeError(NamedTuple):
    """Median, 95th percentile and maximum of |predicted - measured| / measured."""

    median: float
    p95: float
    maximum: float

    @classmethod
    def of(cls, predicted: Sequence[float], measured: Sequence[float]) -> RelativeError:
        """The errors of predictions against measurements, both in ms."""
        errors = np.abs(np.asarray(predicted) / np.asarray(measured) - 1)
        return cls(float(np.median(errors)), float(np.percentile(errors, 95)), float(errors.max()))

    def describe(self, of: str = "cross-validation error") -> str:
        """The errors in words."""
        return (
            f"{of} median {share(self.median)}, 95 % {share(self.p95)}, worst {share(self.maximum)}"
        )


def features(arch: Arch, config: ModelConfig) -> dict[str, float]:
    """Amounts of work of an architecture, by name."""
    # includes the copies of class token and registers
    tokens = arch.tokens + arch.windows**2 * config.prefix_tokens
    depth = arch.decoder_layers
    queries = arch.queries
    blocks = range(max(config.feature_stages))
    global_blocks = sum(index in config.global_blocks for index in blocks)
    windowed_pairs = (len(blocks) - global_blocks) * tokens**2 / arch.windows**2
    map_pixels = (
        math.prod(side // config.mask_stride for side in arch.input_hw) if config.masks else 0
    )
    return {
        "constant": 1.0,
        "image_pixels": math.prod(arch.input_hw),
        "tokens": tokens,
        "tokens_windowed": tokens if arch.windows > 1 else 0,  # partition into windows and back
        # a backbone without windows has no attention
        "attention_pairs": (
            global_blocks * tokens**2 + windowed_pairs if kind_of(config.backbone).windows else 0
        ),
        "decoder_layers": depth,
        "decoder_queries": depth * queries,
        "decoder_query_pairs": depth * queries**2,
        "decoder_tokens": depth * tokens,
        "queries": queries,
        "mask_pixels": map_pixels,
        "mask_block_pixels": depth * map_pixels,
        "mask_products": queries * map_pixels,
    }


@dataclasses.dataclass(frozen=True)
class LatencyModel:
    """The additive model: milliseconds per unit of each feature."""

    coefficients: dict[str, float]
    config: ModelConfig

    @classmethod
    def fit(
        cls, archs: Sequence[Arch], latency_ms: Sequence[float], config: ModelConfig
    ) -> LatencyModel:
        """The model fitted to the measured medians of ``archs``, in ms.

        Raises :class:`InputError` for fewer than four architectures, unequal lengths, or a latency
        <= 0.
        """
        measured = np.asarray(latency_ms, dtype=float)
        if len(archs) != len(measured) or len(archs) < 4:
            raise InputError(
                f"{len(archs)} architectures and {len(measured)} latencies cannot be fitted",
                hint="measure at least four engines",
            )
        if not (np.isfinite(measured) & (measured > 0)).all():
            raise InputError(
                "a measured latency is not positive",
                archs[int(np.argmin(measured))].key,
                "measure the engine again",
            )
        rows = [features(arch, config) for arch in archs]
        work = np.array([list(row.values()) for row in rows], dtype=float)  # (engines, features)
        scale = np.maximum(work.max(axis=0), 1e-12)  # equal column norms, for the solver
        # rows divided by latency, which gives relative errors
        solution, _ = nnls(work / scale / measured[:, None], np.ones(len(archs)))
        return cls(dict(zip(rows[0], (solution / scale).tolist(), strict=True)), config)

    def predict(self, arch: Arch) -> float:
        """Predicted latency in ms."""
        return sum(
            self.coefficients[name] * amount for name, amount in features(arch, self.config).items()
        )

    def parts(self, arch: Arch) -> dict[str, float]:
        """Milliseconds of backbone (with the constant), decoder (with the part that grows with
        queries alone) and mask head.
        """
        total = {"backbone": 0.0, "decoder": 0.0, "mask_head": 0.0}
        for name, amount in features(arch, self.config).items():
            part = (
                "mask_head"
                if name.startswith("mask")
                else "decoder"
                if name.startswith(("decoder", "quer"))
                else "backbone"
            )
            total[part] += self.coefficients[name] * amount
        return total

    def error(self, archs: Sequence[Arch], latency_ms: Sequence[float]) -> RelativeError:
        """Relative error on measured engines; meaningful for engines that were left out of the
        fit.
        """
        if not archs:
            raise InputError(
                "there are no engines to compare the predictions with",
                hint="leave some engines out of the fit",
            )
        return RelativeError.of([self.predict(arch) for arch in archs], list(latency_ms))

    def latency(self, arch: Arch, heldout: RelativeError) -> Latency:
        """The prediction for a Record, marked as modelled, with the model's error."""
        return Latency(
            self.predict(arch),
            method="modelled",
            heldout_error=heldout.median,
            heldout_p95=heldout.p95,
        )

    def to_json(self) -> str:
        """The model as JSON text."""
        return json.dumps(
            {"coefficients_ms": self.coefficients, "config": self.config.stated()},
            indent=1,
        )

    @classmethod
    def from_json(cls, text: str) -> LatencyModel:
        """The model in the JSON text of :meth:`to_json`; raises :class:`InputError` for other
        text.
        """
        try:
            fields: Any = parse_json(text)
            config = ModelConfig.from_json(fields["config"])
            coefficients = {name: float(value) for name, value in fields["coefficients_ms"].items()}
            if set(coefficients) != set(features(Arch(64, 16, 1, 1, 1), config)):
                raise ValueError("the features are not those of this version")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"not a latency model ({error})", hint="fit the model again"
            ) from error
        return cls(coefficients, config)


def heldout_error(
    archs: Sequence[Arch],
    latency_ms: Sequence[float],
    config: ModelConfig,
    folds: int = 5,
    seed: int = 0,
) -> RelativeError:
    """Cross-validation error: each engine is left out of the fit once, in one of ``folds`` random
    folds.
    """
    order = list(range(len(archs)))
    random.Random(seed).shuffle(order)
    predicted: dict[int, float] = {}
    for fold in range(folds):
        left_out = order[fold::folds]
        fitted = [index for index in order if index not in left_out]
        model = LatencyModel.fit(
            [archs[i] for i in fitted], [latency_ms[i] for i in fitted], config
        )
        predicted.update((index, model.predict(archs[index])) for index in left_out)
    return RelativeError.of(
        [predicted[index] for index in order], [latency_ms[index] for index in order]
    )


def engine_order(space: SearchSpace, seed: int = 0) -> list[Arch]:
    """The whole space in the order in which engines should be measured; the same for the same seed.

    Every prefix is a balanced choice: each backbone is the farthest from all before it, with one
    engine per backbone and round; decoder depths and query counts take turns, starting with the
    extreme pairs.
    """
    rng = random.Random(seed)
    left: dict[Backbone, dict[tuple[int, int], Arch]] = {}
    for arch in space.check():
        left.setdefault(arch.backbone, {}).setdefault((arch.decoder_layers, arch.queries), arch)
    backbones = _spread(list(left), len(left))
    heads = _decoder_turns(space, rng)
    order: list[Arch] = []
    for turn in range(len(heads)):
        for place, backbone in enumerate(backbones):
            free = left[backbone]
            if free:
                wanted = heads[(turn * (len(backbones) + 1) + place) % len(heads)]
                order.append(
                    free.pop(wanted) if wanted in free else free.pop(rng.choice(list(free)))
                )
    return order


def _decoder_turns(space: SearchSpace, rng: random.Random) -> list[tuple[int, int]]:
    """(decoder layers, queries) in order of use: the four corners, then the other pairs in random
    order.
    """
    depths = sorted(set(space.decoder_layers))
    queries = sorted(set(space.queries))
    corners = list(dict.fromkeys(product((depths[-1], depths[0]), (queries[-1], queries[0]))))
    others = [pair for pair in product(depths, queries) if pair not in corners]
    rng.shuffle(others)
    return corners + others


def _spread(backbones: list[Backbone], count: int) -> list[Backbone]:
    """Farthest-point order: starts at the largest image with the smallest patch, then always takes
    the backbone farthest from all before it.
    """
    points = np.log(
        [[height * width, patch, windows] for height, width, patch, windows in backbones]
    )
    points /= np.maximum(np.ptp(points, axis=0), 1e-9)
    chosen = [int(np.argmax(points[:, 0] - points[:, 1]))]
    distance = np.linalg.norm(points - points[chosen[0]], axis=1)
    while len(chosen) < count:
        chosen.append(int(np.argmax(distance)))
        distance = np.minimum(distance, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return [backbones[index] for index in chosen]
