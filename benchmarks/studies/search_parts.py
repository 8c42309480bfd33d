"""The parts of a search of the paper's space, each timed on this machine and stored as a Record.

    python -m benchmarks.studies.search_parts --out results/search_cost.jsonl [--only NAME ...]

A part is one unit of work on one thread: one picture decoded, one picture resized, one
configuration scored on COCO's 5,000 images, one image of one configuration resampled for a race,
one exported file, and one image through the least, the median and the most expensive backbone with
all decoders that share it. Times are CPU times of this process, so that other programs of the
machine disturb them little; the median of the repeats is stored, with the exact 95 % interval of a
median where there are enough repeats. Pictures, annotations and matches are made up with COCO's
statistics, weights are random: no time here depends on their values.
"""

from __future__ import annotations

CAMPAIGN = "search-cost"
IMAGES = 5000
COCO_CLASSES = 80
PICTURE_HW = (480, 640)
