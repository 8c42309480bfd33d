"""What a label means: contiguous indices inside, original category ids outside, and the map between them stored and printed.

Label conventions changed between upstream releases, which is the most frequent cause of shifted classes; so the convention of a
checkpoint is stated wherever it is read. No torch here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import InputError

# COCO's 80 detection classes by category id; ids 1..90 have ten holes.
COCO_NAMES = dict(
    zip(
        (id_ for id_ in range(1, 91) if id_ not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)),
        (
            "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,"
            "parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,tie,"
            "suitcase,frisbee,skis,snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,"
            "tennis racket,bottle,wine glass,cup,fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,"
            "hot dog,pizza,donut,cake,chair,couch,potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,"
            "cell phone,microwave,oven,toaster,sink,refrigerator,book,clock,vase,scissors,teddy bear,hair drier,toothbrush"
        ).split(","),
        strict=True,
    )
)
UNUSED = "(unused)"


@dataclass(frozen=True)
class Labels:
    """Label i is called ``names[i]`` and stands for ``category_ids[i]`` of the data; ``note`` says where this is known from."""

    names: tuple[str, ...]
    category_ids: tuple[int, ...]
    note: str = ""

    def describe(self, limit: int = 12) -> str:
        """One line, e.g. ``labels (from the data): 0 = cat (id 17), 1 = dog (id 18)``."""
        used = [(i, name, id_) for i, (name, id_) in enumerate(zip(self.names, self.category_ids, strict=True)) if name != UNUSED]
        shown = ", ".join(f"{i} = {name} (id {id_})" for i, name, id_ in used[:limit])
        more = f", and {len(used) - limit} more" if len(used) > limit else ""
        return f"labels{f' ({self.note})' if self.note else ''}: {shown}{more}"


def coco_labels() -> Labels:
    """The 91 logits of the released COCO checkpoints: logit = category id; 0 and the ten holes are unused."""
    names = tuple(COCO_NAMES.get(id_, UNUSED) for id_ in range(91))
    return Labels(names, tuple(range(91)), "COCO category ids")


def labels_of_checkpoint(said: Mapping[str, Any], num_classes: int) -> Labels:
    """The label map of a foreign checkpoint with ``num_classes`` logits, from what it says about itself."""
    names = said.get("class_names") or ()
    if isinstance(names, Mapping):
        names = [names[key] for key in sorted(names, key=int)]
    names = tuple(str(name) for name in names)
    if not names:
        if num_classes == 91:
            return coco_labels()
        return Labels(tuple(f"class {i}" for i in range(num_classes)), tuple(range(num_classes)), "the file names no classes")
    if len(names) == num_classes:
        ids = tuple(int(id_) for id_ in said.get("category_ids") or range(num_classes))
        return Labels(names, ids, "names in the file")
    if len(names) == num_classes - 1:
        if _version(said) >= (1, 6):
            return Labels((*names, UNUSED), tuple(range(num_classes)), "names in the file, labels from 0 as upstream >= 1.6")
        return Labels((UNUSED, *names), tuple(range(num_classes)), "names in the file, labels from 1 as upstream < 1.6")
    if num_classes == 91 and set(names) <= set(COCO_NAMES.values()):
        return coco_labels()
    raise InputError(f"{len(names)} class names for {num_classes} logits", mend="name the classes yourself")


def _version(said: Mapping[str, Any]) -> tuple[int, ...]:
    parts = str(said.get("rfdetr_version") or "0").split(".")[:2]
    return tuple(int(part) if part.isdigit() else 0 for part in parts)
