"""The ten domains, and the eleventh that is drawn only on request: the pictures of ``signs`` with
three classes instead of forty.
"""

from __future__ import annotations

from .aerial import draw_aerial
from .cells import draw_cells
from .documents import draw_document
from .domain import Domain, Share
from .photographs import draw_night, draw_photograph, draw_thermal
from .signs import FORTY, GROUPS, draw_signs

_EVERY_CLASS = (
    "person",
    "car",
    "motorcycle",
    "truck",
    "bench",
    "bottle",
    "cup",
    "chair",
    "couch",
    "potted plant",
    "bed",
    "dining table",
    "toilet",
    "tv",
    "oven",
    "sink",
    "refrigerator",
    "vase",
)
_EVERY_SIZE = (Share(15, 0.10, 0.16), Share(45, 0.18, 0.36), Share(40, 0.36, 0.72))

KNOWN = Domain(
    name="known",
    number=1,
    resembles="everyday objects standing in photographs; test shows the objects of train in new "
    "scenes",
    unlike="The objects are rendered 3D models, and a bed may stand on a meadow.",
    height=160,
    width=160,
    classes=_EVERY_CLASS,
    objects=(2, 7),
    mix=_EVERY_SIZE,
    draw=draw_photograph,
    mean_objects=(2.5, 4.5),
    median_side=(0.15, 0.32),
    from_pack=True,
)
UNSEEN = Domain(
    name="unseen",
    number=2,
    resembles="the same classes, sizes and numbers as known; test shows objects and photographs "
    "that train never shows",
    unlike="The objects are rendered 3D models, one to four of each class in test.",
    height=160,
    width=160,
    classes=_EVERY_CLASS,
    objects=(2, 7),
    mix=_EVERY_SIZE,
    draw=draw_photograph,
    mean_objects=(2.5, 4.5),
    median_side=(0.15, 0.32),
    from_pack=True,
    holds_out=True,
)
CROWDED = Domain(
    name="crowded",
    number=3,
    resembles="many small things that stand close together",
    unlike="Crowds of people or of goods on shelves have an order that these pictures lack.",
    height=192,
    width=192,
    classes=("bottle", "cup", "chair", "potted plant", "vase"),
    objects=(28, 52),
    mix=(Share(1, 0.07, 0.13),),
    draw=draw_photograph,
    mean_objects=(24, 38),
    median_side=(0.05, 0.09),
    from_pack=True,
    holds_out=True,
)
LARGE = Domain(
    name="large",
    number=4,
    resembles="one or two pieces of furniture that fill the picture and run out of it",
    unlike="Enlarged renderings look softer than photographs from near by.",
    height=144,
    width=176,
    classes=("couch", "bed", "dining table", "refrigerator"),
    objects=(1, 2),
    mix=(Share(1, 0.70, 1.15),),
    draw=draw_photograph,
    mean_objects=(0.9, 1.8),
    median_side=(0.4, 0.75),
    from_pack=True,
    holds_out=True,
)
THERMAL = Domain(
    name="thermal",
    number=5,
    resembles="people and vehicles as a thermal camera shows them: bright and grey before a dark "
    "background, coarse and noisy",
    unlike="The brightness follows a rule for each class and no measured temperature.",
    height=144,
    width=192,
    classes=("person", "car", "truck"),
    objects=(2, 8),
    mix=(Share(60, 0.12, 0.25), Share(40, 0.25, 0.5)),
    draw=draw_thermal,
    mean_objects=(3.5, 6),
    median_side=(0.07, 0.2),
    from_pack=True,
    holds_out=True,
)
AERIAL = Domain(
    name="aerial",
    number=6,
    resembles="a settlement from above: cars and trucks on roads, houses, trees and pools, at any "
    "angle",
    unlike="Everything is drawn from simple shapes; train and test follow the same rules.",
    height=192,
    width=192,
    classes=("car", "truck", "house", "tree", "pool"),
    objects=(14, 38),
    mix=(
        Share(38, 0.045, 0.06, "car"),
        Share(10, 0.085, 0.115, "truck"),
        Share(20, 0.12, 0.21, "house"),
        Share(24, 0.05, 0.11, "tree"),
        Share(8, 0.07, 0.12, "pool"),
    ),
    draw=draw_aerial,
    mean_objects=(17, 28),
    median_side=(0.04, 0.1),
)
DOCUMENT = Domain(
    name="document",
    number=7,
    resembles="pages with titles, text, lists, tables, figures and captions in one or two columns",
    unlike="The print cannot be read, and the blocks tell no story.",
    height=208,
    width=160,
    classes=("title", "text", "list", "table", "figure", "caption"),
    objects=(7, 15),
    # the heights of the blocks
    mix=(
        Share(12, 0.03, 0.09, "title"),
        Share(42, 0.07, 0.36, "text"),
        Share(14, 0.11, 0.30, "list"),
        Share(14, 0.16, 0.36, "table"),
        Share(18, 0.20, 0.42, "figure"),
        Share(0, 0.04, 0.08, "caption"),
    ),
    draw=draw_document,
    mean_objects=(6, 10),
    median_side=(0.15, 0.35),
)
CELLS = Domain(
    name="cells",
    number=8,
    resembles="stained nuclei in a fluorescence microscope, with dividing nuclei and debris, and "
    "masks of irregular outline",
    unlike="No tissue, stain or microscope was modelled.",
    height=176,
    width=176,
    classes=("nucleus", "dividing", "debris"),
    objects=(12, 60),
    mix=(
        Share(76, 0.08, 0.15, "nucleus"),
        Share(10, 0.09, 0.13, "dividing"),
        Share(14, 0.03, 0.055, "debris"),
    ),
    draw=draw_cells,
    mean_objects=(26, 44),
    median_side=(0.06, 0.13),
)
NIGHT = Domain(
    name="night",
    number=9,
    resembles="people and vehicles between lamps at night, taken by a moving camera",
    unlike="Light falls as from above the picture, and nothing but the camera moves.",
    height=144,
    width=192,
    classes=("person", "car", "motorcycle", "truck", "bench"),
    objects=(2, 7),
    mix=(Share(50, 0.18, 0.35), Share(50, 0.35, 0.6)),
    draw=draw_night,
    mean_objects=(2.3, 4.5),
    median_side=(0.12, 0.3),
    from_pack=True,
    holds_out=True,
)
SIGNS = Domain(
    name="signs",
    number=10,
    resembles="flat signs over photographs: eight shapes in five patterns, forty classes",
    unlike="The signs mean nothing and always face the camera upright.",
    height=160,
    width=160,
    classes=FORTY,
    objects=(3, 12),
    mix=(Share(50, 0.10, 0.2), Share(50, 0.2, 0.4)),
    draw=draw_signs,
    mean_objects=(5.5, 9),
    median_side=(0.12, 0.24),
)
SIGNS_OF_3 = Domain(
    name="signs-3",
    number=SIGNS.number,
    resembles="the pictures of signs with three classes, the groups of the shapes, instead of "
    "forty",
    unlike=SIGNS.unlike,
    height=SIGNS.height,
    width=SIGNS.width,
    classes=GROUPS,
    objects=SIGNS.objects,
    mix=SIGNS.mix,
    draw=draw_signs,
    mean_objects=SIGNS.mean_objects,
    median_side=SIGNS.median_side,
)

TEN = (KNOWN, UNSEEN, CROWDED, LARGE, THERMAL, AERIAL, DOCUMENT, CELLS, NIGHT, SIGNS)
DOMAINS = {domain.name: domain for domain in (*TEN, SIGNS_OF_3)}
