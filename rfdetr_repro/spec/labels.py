"""What a label means: contiguous indices inside, original category ids outside, and the map between
them stored and printed.

Label conventions changed between upstream releases, which is the most frequent cause of shifted
classes; so the convention of a checkpoint is stated wherever it is read. No torch here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import InputError

# COCO's 80 detection classes by category id; ids 1..90 have ten holes.
COCO_NAMES = dict(
    zip(
        (id_ for id_ in range(1, 91) if id_ not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)),
        [
            "person",
            "bicycle",
            "car",
            "motorcycle",
            "airplane",
            "bus",
            "train",
            "truck",
            "boat",
            "traffic light",
            "fire hydrant",
            "stop sign",
            "parking meter",
            "bench",
            "bird",
            "cat",
            "dog",
            "horse",
            "sheep",
            "cow",
            "elephant",
            "bear",
            "zebra",
            "giraffe",
            "backpack",
            "umbrella",
            "handbag",
            "tie",
            "suitcase",
            "frisbee",
            "skis",
            "snowboard",
            "sports ball",
            "kite",
            "baseball bat",
            "baseball glove",
            "skateboard",
            "surfboard",
            "tennis racket",
            "bottle",
            "wine glass",
            "cup",
            "fork",
            "knife",
            "spoon",
            "bowl",
            "banana",
            "apple",
            "sandwich",
            "orange",
            "broccoli",
            "carrot",
            "hot dog",
            "pizza",
            "donut",
            "cake",
            "chair",
            "couch",
            "potted plant",
            "bed",
            "dining table",
            "toilet",
            "tv",
            "laptop",
            "mouse",
            "remote",
            "keyboard",
            "cell phone",
            "microwave",
            "oven",
            "toaster",
            "sink",
            "refrigerator",
            "book",
            "clock",
            "vase",
            "scissors",
            "teddy bear",
            "hair drier",
            "toothbrush",
        ],
        strict=True,
    )
)
UNUSED = "(unused)"
# what a caller may say where a file leaves its labels open
CONVENTIONS = ("from-0", "from-1", "coco")

LABELS_HELP = (
    "what the labels of a foreign file mean, where it does not say: from-0 (upstream since 1.6), "
    "from-1 (before), coco (COCO's category ids), or the names of all labels in order, separated "
    "by commas"
)


def labels_given(text: str | None) -> str | list[str] | None:
    """The value of ``--labels``: one of :data:`CONVENTIONS`, or the names of all labels, separated
    by commas.
    """
    if text is None or text in CONVENTIONS:
        return text
    return [name.strip() for name in text.split(",")]


@dataclass(frozen=True)
class Labels:
    """Label i is called ``names[i]`` and stands for ``category_ids[i]`` of the data; ``note`` says
    where this is known from.
    """

    names: tuple[str, ...]
    category_ids: tuple[int, ...]
    note: str = ""

    def describe(self, limit: int = 12) -> str:
        """One line, e.g. ``labels (from the data): 0 = cat (id 17), 1 = dog (id 18)``."""
        used = [
            (i, name, id_)
            for i, (name, id_) in enumerate(zip(self.names, self.category_ids, strict=True))
            if name != UNUSED
        ]
        shown = ", ".join(f"{i} = {name} (id {id_})" for i, name, id_ in used[:limit])
        more = f", and {len(used) - limit} more" if len(used) > limit else ""
        return f"labels{f' ({self.note})' if self.note else ''}: {shown}{more}"


def coco_labels() -> Labels:
    """The 91 logits of the released COCO checkpoints: logit = category id; 0 and the ten holes are
    unused.
    """
    names = tuple(COCO_NAMES.get(id_, UNUSED) for id_ in range(91))
    return Labels(names, tuple(range(91)), "COCO category ids")


def labels_of_checkpoint(
    said: Mapping[str, Any], num_classes: int, convention: str | Sequence[str] | None = None
) -> Labels:
    """The label map of a foreign checkpoint with ``num_classes`` logits, from what it says about
    itself.

    ``convention``: how the caller settles what the file leaves open: "from-0" (label i is the i-th
    name), "from-1" (label 0 is unused), "coco" (91 logits, label = COCO's category id), or the
    names of all labels in order. Without it, a file whose convention cannot be proved is an
    :class:`InputError` that names the choices.
    """
    names = _names_of(said)
    if convention is not None and not isinstance(convention, str):
        if len(convention) != num_classes:
            told = f"{len(convention)} names for {num_classes} labels"
            raise InputError(
                told, hint=f"name each label in order; {UNUSED!r} for one that means nothing"
            )
        return _padded(tuple(str(name) for name in convention), num_classes, 0, "names as given")
    if convention not in (None, *CONVENTIONS):
        raise InputError(
            f"unknown labels {convention!r}",
            hint=f"choose {', '.join(CONVENTIONS)}, or give the names",
        )
    if convention == "coco":
        if num_classes != len(coco_labels().names):
            raise InputError(
                f"COCO's category ids need 91 logits, the file has {num_classes}",
                hint="choose from-0 or from-1",
            )
        return coco_labels()
    if convention is not None:
        if not names:
            raise InputError(
                "the file names no classes", hint="give the names of all labels in order"
            )
        return _padded(
            names,
            num_classes,
            CONVENTIONS.index(convention),
            f"names in the file, labels {convention} as asked",
        )
    return _stated(said, names, num_classes)


def _stated(said: Mapping[str, Any], names: tuple[str, ...], num_classes: int) -> Labels:
    """The label map that the file itself proves."""
    if not names:
        if num_classes == 91:
            return coco_labels()
        return Labels(
            tuple(f"class {i}" for i in range(num_classes)),
            tuple(range(num_classes)),
            "the file names no classes",
        )
    if (
        num_classes == 91
        and len(names) == len(COCO_NAMES)
        and set(names) == set(COCO_NAMES.values())
    ):
        return coco_labels()
    if not said.get("class_names"):  # each label has its number in id2label
        return _padded(names, num_classes, 0, "id2label of config.json")
    if len(names) == num_classes:
        ids = tuple(int(id_) for id_ in said.get("category_ids") or range(num_classes))
        if len(ids) != num_classes or len(set(ids)) != num_classes:
            raise InputError(
                f"{len(set(ids))} category ids for {num_classes} class names",
                hint="save the model again",
            )
        return Labels(names, ids, "names in the file")
    if len(names) > num_classes:
        raise InputError(
            f"{len(names)} class names for {num_classes} logits",
            hint="give the names of all labels in order",
        )
    age = _age(said)
    if age is not None and (
        age >= _FILTERED or (age >= _CONTIGUOUS and len(names) == num_classes - 1)
    ):
        doubt = (
            ""
            if age >= _FILTERED
            else "; from-1 if its data had Roboflow's grouping category and num_classes was set by "
            "hand"
        )
        return _padded(
            names, num_classes, 0, f"names in the file, labels from 0 as upstream >= 1.6{doubt}"
        )
    if age is not None and age < _REMAPPED and len(names) == num_classes - 1:
        return _padded(names, num_classes, 1, "names in the file, labels from 1 as upstream < 1.5")
    raise InputError(
        f"{len(names)} class names for {num_classes} logits, and the file does not say whether "
        f"labels count from 0 or from 1",
        hint="say which: labels from-0 (upstream since 1.6), from-1 (before, and up to 1.9.3 with "
        "Roboflow's grouping category), or the names of all labels in order; RFDETR(size, "
        "weights=FILE, labels=...).save(...) writes a file that says so",
    )


def _names_of(said: Mapping[str, Any]) -> tuple[str, ...]:
    """Class names in the order of labels: upstream's ``class_names``, or ``id2label`` of a
    transformers configuration.
    """
    names = said.get("class_names") or ()
    if not names and isinstance(said.get("id2label"), Mapping):
        found = {int(label): str(name) for label, name in said["id2label"].items()}
        return tuple(found.get(label, UNUSED) for label in range(max(found, default=-1) + 1))
    if isinstance(names, str):
        names = [names]
    if isinstance(names, Mapping):
        names = [names[key] for key in sorted(names, key=int)]
    return tuple(str(name) for name in names)


def _padded(names: tuple[str, ...], num_classes: int, first: int, note: str) -> Labels:
    """``names`` from label ``first`` on, the labels before and after them unused."""
    after = num_classes - first - len(names)
    if after < 0:
        raise InputError(
            f"{len(names)} class names from label {first} on do not fit {num_classes} logits"
        )
    return Labels((UNUSED,) * first + names + (UNUSED,) * after, tuple(range(num_classes)), note)


# Upstream's versions by what a label means: before 1.5 the category id itself; then contiguous
# labels, at first with a label for
# Roboflow's grouping category; since 1.6 upstream's program names label i by the i-th name; since
# 1.9.4 no label is lost.
_REMAPPED = (1, 5)
_CONTIGUOUS = (1, 6)
_FILTERED = (1, 9, 4)
# Settings that came with a version, for files that do not tell theirs (upstream writes it since
# 1.7). Newest first.
_CAME_WITH = (
    (
        _CONTIGUOUS,
        (
            "eval_interval",
            "accelerator",
            "train_log_on_step",
            "log_per_class_metrics",
            "model_name",
            "amp_dtype",
        ),
    ),
    (_REMAPPED, ("aug_config", "progress_bar", "mlflow", "clearml")),
    ((1, 0), ("cutoff_epoch", "set_cost_class", "do_benchmark", "drop_mode", "force_no_pretrain")),
)


def _age(said: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Upstream's version that wrote a file, or the oldest that can have; None where nothing
    tells.
    """
    if match := re.match(r"\d+(\.\d+)*", str(said.get("rfdetr_version") or "")):
        return tuple(int(part) for part in match[0].split("."))
    return next(
        (version for version, names in _CAME_WITH if any(name in said for name in names)), None
    )
