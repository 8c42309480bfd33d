"""How a picture becomes the size that a model takes: the rules by name, and which one fits where
the weights come from.

- ANTIALIASED: Pillow's bilinear filter, which averages over all pixels that fall onto one. Our own
  training; RF-DETR's released weights, whose training and validation resized Pillow images
  (upstream <= 1.5); D-FINE, RT-DETR and transformers.
- PLAIN: bilinear between the four nearest pixels, as OpenCV's and as torchvision's with
  ``antialias=False``. Upstream trained and validated so in 1.6 to 1.8 (Albumentations), and its
  ``predict`` does so since 1.9; Ultralytics does so.
- LETTERBOX and PLAIN_LETTERBOX keep the aspect ratio, the rest is grey (YOLO).

A rule is part of a checkpoint's card and of an artifact's manifest, and training's validation,
evaluation, prediction and the benchmark read it there.
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
_PLAIN_SINCE = (1, 8)  # files that say so; they say their version since 1.7
_OF = {
    (False, False): PLAIN,
    (False, True): PLAIN_LETTERBOX,
    (True, False): ANTIALIASED,
    (True, True): LETTERBOX,
}


def with_antialias(rule: str, antialias: bool | None) -> str:
    """The rule with the filter that was asked for; ``None``: as it is."""
    return rule if antialias is None else _OF[antialias, rule in (LETTERBOX, PLAIN_LETTERBOX)]


def rule_of_upstream(said: Mapping[str, Any]) -> str:
    """The rule of a checkpoint in upstream's form: what we wrote into it (``resize_rule``), else by
    its ``rfdetr_version``.
    """
    if said.get("resize_rule") in RULES:
        return str(said["resize_rule"])
    version = re.match(r"(\d+)\.(\d+)", str(said.get("rfdetr_version") or ""))
    return PLAIN if version and tuple(map(int, version.groups())) >= _PLAIN_SINCE else ANTIALIASED


def option_of(rule: str) -> str:
    """What a Record's options say of the rule: one ONNX file may be evaluated by several.

    Nothing of the usual one.
    """
    short = {LETTERBOX: "letterbox", PLAIN: "plain", PLAIN_LETTERBOX: "plain-letterbox"}.get(rule)
    return "" if short is None else f"resize={short}"


def describe(rule: str) -> str:
    """For one printed line."""
    return (
        f"pictures are resized {'with' if rule in (ANTIALIASED, LETTERBOX) else 'without'} "
        f"antialiasing"
    )
