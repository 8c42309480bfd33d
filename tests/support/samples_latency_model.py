"""Shared by ``test_latency_model.py`` and others: CONFIG, additive_ms."""

from __future__ import annotations

import math

from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.spec.presets import PICO

CONFIG = PICO.model


def additive_ms(arch: Arch) -> float:
    """A machine on which the model's assumption holds; written without its feature table."""
    tokens = arch.tokens + arch.windows**2
    pixels = math.prod(arch.input_hw)
    backbone = 0.4 + 2e-5 * pixels + 0.012 * tokens + 1.5e-5 * (1 + 3 / arch.windows**2) * tokens**2
    decoder = arch.decoder_layers * (0.15 + 0.004 * arch.queries + 0.0007 * tokens)
    masks = pixels / 16 * (4e-4 + 3e-4 * arch.decoder_layers + 2e-5 * arch.queries)
    return backbone + decoder + masks
