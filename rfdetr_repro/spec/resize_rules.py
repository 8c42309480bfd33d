"""How a picture becomes the size that a model takes: the rules by name, and the rule that weights
of a known origin need.

- ANTIALIASED: Pillow's bilinear filter, which averages over all source pixels of a target pixel.
  Training in this package; RF-DETR's released weights, whose training and validation resized Pillow
  images (upstream <= 1.5); D-FINE, RT-DETR and transformers.
- PLAIN: bilinear between the four nearest pixels, as in OpenCV and in torchvision with
  ``antialias=False``. Upstream trained and validated with it in 1.6 to 1.8 (Albumentations), and
  upstream's ``predict`` uses it since 1.9, as does Ultralytics.
- LETTERBOX and PLAIN_LETTERBOX keep the aspect ratio and fill the rest with grey (YOLO).

A rule is part of a checkpoint's card and of an artifact's manifest. Validation during training,
evaluation, prediction and the benchmark read the rule there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

ANTIALIASED = "pillow bilinear, antialiased, aspect ratio not kept"
LETTERBOX = "pillow bilinear, antialiased, aspect ratio kept, centred on grey 114"
PLAIN = "bilinear of the four nearest pixels, not antialiased, aspect ratio not kept"
PLAIN_LETTERBOX = (
    "bilinear of the four nearest pixels, not antialiased, aspect ratio kept, centred on grey 114"
)
RULES = (ANTIALIASED, LETTERBOX, PLAIN, PLAIN_LETTERBOX)
_PLAIN_SINCE = (1, 8)  # files that state a version, which upstream writes since 1.7
_OF = {
    (False, False): PLAIN,
    (False, True): PLAIN_LETTERBOX,
    (True, False): ANTIALIASED,
    (True, True): LETTERBOX,
}


def with_antialias(rule: str, antialias: bool | None) -> str:
    """``rule`` with or without antialiasing as ``antialias`` says; ``None`` keeps ``rule``."""
    return rule if antialias is None else _OF[antialias, rule in (LETTERBOX, PLAIN_LETTERBOX)]


def rule_of_upstream(stated: Mapping[str, Any]) -> str:
    """The rule of a checkpoint in upstream's form: the ``resize_rule`` that this package wrote into
    it, else the rule of its ``rfdetr_version``.
    """
    if stated.get("resize_rule") in RULES:
        return str(stated["resize_rule"])
    version = re.match(r"(\d+)\.(\d+)", str(stated.get("rfdetr_version") or ""))
    return PLAIN if version and tuple(map(int, version.groups())) >= _PLAIN_SINCE else ANTIALIASED


def option_of(rule: str) -> str:
    """What a Record's options state about the rule, because one ONNX file may be evaluated by
    several rules; empty for the usual rule.
    """
    short = {LETTERBOX: "letterbox", PLAIN: "plain", PLAIN_LETTERBOX: "plain-letterbox"}.get(rule)
    return "" if short is None else f"resize={short}"


def describe(rule: str) -> str:
    """One line to print, like "pictures are resized with antialiasing"."""
    return (
        f"pictures are resized {'with' if rule in (ANTIALIASED, LETTERBOX) else 'without'} "
        f"antialiasing"
    )
