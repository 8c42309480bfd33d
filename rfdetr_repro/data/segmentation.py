"""Segmentations, kept as the text of the annotation file until needed, then rasterised.

In COCO's train file nine tenths of the text are polygon coordinates. Cutting these out before
parsing makes reading several times faster, and keeps hundreds of megabytes of text instead of
gigabytes of Python numbers.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as rle_code

from rfdetr_repro.spec.files import without_duplicates

from . import mask_logits as masks

SPAN_KEY = "@span"  # replaces the "segmentation" of an annotation whose text was cut out
NO_MASK = "it has none"
_KEY = b'"segmentation"'
_COLON = re.compile(rb"\s*:\s*([\[{])")


@dataclass(frozen=True)
class Segmentations:
    """The segmentations of a file by row of its annotation table: spans of text, and the few
    segmentations that were parsed with the rest.
    """

    content: bytes
    starts: np.ndarray  # int64 (n,), -1 where ``inline`` holds the segmentation
    ends: np.ndarray  # int64 (n,)
    inline: dict[int, Any]

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, row: int) -> Any:
        """Polygons, RLE object, or None where absent.

        Raises ``ValueError`` for text that is not JSON.
        """
        if self.starts[row] < 0:
            return self.inline.get(row)
        text = self.content[self.starts[row] : self.ends[row]].decode("utf-8")
        return json.loads(text, object_pairs_hook=without_duplicates)

    def readable(self, row: int) -> Any:
        """Like ``self[row]``, but None also for text that is not JSON; :meth:`fault` distinguishes
        the two.
        """
        try:
            return self[row]
        except (ValueError, RecursionError):
            return None

    def pick(self, rows: np.ndarray) -> Segmentations:
        """The segmentations of ``rows`` (int64), in that order."""
        inline = {
            new: self.inline[old] for new, old in enumerate(rows.tolist()) if old in self.inline
        }
        return Segmentations(self.content, self.starts[rows], self.ends[rows], inline)

    def fault(self, row: int, height: int, width: int) -> str:
        """Why this row gives no mask of this size (:data:`NO_MASK` where the row has no
        segmentation); empty where the row gives a mask.
        """
        try:
            value = self[row]
            if not value or value == [[]]:
                return NO_MASK
            check_segmentation(value, height, width)
        except RecursionError:
            return "it is nested too deeply"
        except ValueError as error:
            return str(error)
        return ""


def cut_segmentations(content: bytes) -> tuple[bytes, np.ndarray]:
    """JSON text with ``"@span": k`` in place of the k-th segmentation, and spans int64 (k, 2) into
    ``content``.

    Inside a JSON string the second quote of the key would be escaped, so only real keys are found.
    """
    pieces: list[bytes] = []
    spans: list[tuple[int, int]] = []
    position = 0
    key = content.find(_KEY) if SPAN_KEY.encode() not in content else -1
    while key >= 0:
        start, end = _value_span(content, key + len(_KEY))
        if end > start:
            pieces += [content[position:key], b'"%s":%d' % (SPAN_KEY.encode(), len(spans))]
            spans.append((start, end))
            position = end
        key = content.find(_KEY, max(end, key + len(_KEY)))
    return b"".join([*pieces, content[position:]]), np.array(spans, dtype=np.int64).reshape(-1, 2)


def _value_span(content: bytes, position: int) -> tuple[int, int]:
    """Span of the list of numbers or flat object after a key; empty for anything else, which is
    then parsed with the rest.
    """
    value = _COLON.match(content, position)
    if value is None:
        return position, position
    start = value.end() - 1
    brace = content.find(b"}", value.end())
    if value[1] == b"{":
        return start, brace + 1
    # a list of numbers ends before the next key or the end of its object
    quote = content.find(b'"', value.end(), brace)
    return start, content.rfind(b"]", start, quote if quote >= 0 else brace) + 1


def gather_segmentations(
    content: bytes, spans: np.ndarray, entries: list[dict[str, Any]]
) -> Segmentations:
    """Segmentations of ``entries`` (annotation objects), in their order; ``spans`` come from
    :func:`cut_segmentations`.
    """
    numbers = np.fromiter(
        (entry.get(SPAN_KEY, -1) if len(spans) else -1 for entry in entries), np.int64, len(entries)
    )
    padded = np.concatenate([spans, [[-1, -1]]])[numbers]  # -1 picks the padding
    inline = {row: entries[row].get("segmentation") for row in np.flatnonzero(numbers < 0).tolist()}
    return Segmentations(content, padded[:, 0], padded[:, 1], inline)


def rle_bounds(segmentation: Any) -> tuple[float, ...] | None:
    """(x, y, width, height) in px of the area that a run-length object covers; None where it covers
    nothing or is malformed.
    """
    if (
        not isinstance(segmentation, dict)
        or not isinstance(size := segmentation.get("size"), list)
        or len(size) != 2
    ):
        return None
    if any(type(side) is not int or not 0 < side <= 1_000_000 for side in size):
        return None
    try:
        lengths = _counts(segmentation.get("counts"), size[0] * size[1])
    except ValueError:
        return None
    ends = np.cumsum(lengths)
    starts, ends = (ends - lengths)[1::2][lengths[1::2] > 0], ends[1::2][lengths[1::2] > 0] - 1
    if not len(starts):
        return None
    first, top = np.divmod(starts, size[0])
    last, bottom = np.divmod(ends, size[0])
    if (first != last).any():  # a run that goes on in the next column spans the whole height
        top, bottom = np.append(top, 0), np.append(bottom, size[0] - 1)
    left = int(first.min())
    upper = int(top.min())
    return float(left), float(upper), float(last.max() + 1 - left), float(bottom.max() + 1 - upper)


def decode_mask(segmentation: Any, height: int, width: int) -> np.ndarray:
    """Rasterises a COCO segmentation (polygons, uncompressed or compressed RLE) to bool (height,
    width).

    Raises ``ValueError``, ``TypeError``, ``KeyError`` or ``RuntimeError`` for a segmentation that
    is empty, malformed or of another size.
    """
    lengths = _run_lengths(segmentation, height, width)
    inside = np.zeros(len(lengths), dtype=bool)
    inside[1::2] = True  # runs alternate, starting outside, down the columns
    return np.repeat(inside, lengths).reshape(width, height).T


def sample_mask(
    segmentation: Any, height: int, width: int, rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    """``decode_mask(...)[rows[:, None], columns]`` as bool (rows, columns); rasterises only the
    columns that the mask covers.

    ``rows`` and ``columns``: int64 indices of pixels. Raises like :func:`decode_mask`.
    """
    lengths = _run_lengths(segmentation, height, width)
    result = np.zeros((len(rows), len(columns)), dtype=bool)
    after = int(lengths[-1]) if len(lengths) % 2 else 0  # pixels outside behind the last run inside
    first = int(lengths[0])
    last = height * width - after
    if last <= first:
        return result
    left = first // height
    right = -(-last // height)
    runs = lengths.copy()
    runs[0] -= left * height
    inside = np.zeros(len(runs), dtype=bool)
    inside[1::2] = True
    if after:
        runs[-1] -= (width - right) * height
    # one row per column of the picture
    part = np.repeat(inside, runs).reshape(right - left, height)
    covered = np.flatnonzero((columns >= left) & (columns < right))
    result[:, covered] = part[columns[covered] - left][:, rows].T
    return result


def rle_of(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """A COCO segmentation as compressed RLE ``{"size": [height, width], "counts": bytes}``. Raises
    like :func:`decode_mask`.
    """
    lengths = _run_lengths(segmentation, height, width)
    return rle_code._mask.frUncompressedRLE(
        [{"size": [height, width], "counts": lengths.tolist()}]
    )[0]


def _run_lengths(segmentation: Any, height: int, width: int) -> np.ndarray:
    """Checked run lengths, int64 (runs,)."""
    check_segmentation(segmentation, height, width)
    if isinstance(segmentation, list):
        shapes = [
            np.asarray(polygon, dtype=np.float64).tolist()
            for polygon in segmentation
            if len(polygon)
        ]
        rle = rle_code.merge(rle_code.frPyObjects(shapes, height, width))
        return np.asarray(rle_code._mask.toUncompressedRLE([rle])[0]["counts"], dtype=np.int64)
    return _counts(segmentation["counts"], height * width)


def check_segmentation(segmentation: Any, height: int, width: int) -> None:
    """Raises ``ValueError``, with the reason, for a segmentation that gives no mask; rasterises
    nothing.
    """
    if not segmentation:
        raise ValueError("it is empty")
    if isinstance(segmentation, list):
        _check_polygons(segmentation, height, width)
        return
    if (
        not isinstance(segmentation, dict)
        or not isinstance(segmentation.get("size"), list)
        or "counts" not in segmentation
    ):
        raise ValueError("it is neither a list of polygons nor an object with size and counts")
    if segmentation["size"] != [height, width]:
        raise ValueError(
            f"its size is {str(segmentation['size'])[:40]}, the image's is {[height, width]}"
        )
    _counts(segmentation["counts"], height * width)


def _check_polygons(polygons: list[Any], height: int, width: int) -> None:
    # the rasteriser walks every pixel of the outline
    usable = 0
    largest = 4 * max(height, width)
    for polygon in polygons:
        if not isinstance(polygon, list) or not set(map(type, polygon)) <= {int, float}:
            raise ValueError("a polygon is not a list of numbers")
        if not polygon:
            continue  # some exporters write [[]], or an empty polygon among others
        if len(polygon) < 6 or len(polygon) % 2:
            raise ValueError("a polygon has fewer than three points or an odd number of values")
        if not (
            min(polygon) >= -largest and max(polygon) <= largest and math.isfinite(sum(polygon))
        ):
            raise ValueError("a polygon lies far outside the image or is not finite")
        usable += 1
    if not usable:
        raise ValueError("it is empty")


def _counts(counts: Any, pixels: int) -> np.ndarray:
    """Run lengths int64 (runs,) of RLE counts, as a list or as COCO's compressed text. Raises
    ``ValueError`` unless they add up to ``pixels``.
    """
    if isinstance(counts, list):
        if any(
            type(value) is not int and not (type(value) is float and value.is_integer())
            for value in counts
        ):
            raise ValueError("its counts are not whole numbers")
        if any(not 0 <= value <= pixels for value in counts):
            raise ValueError("its runs do not add up to the image")
        lengths = np.asarray(counts, dtype=np.int64)
    elif isinstance(counts, (str, bytes)):
        lengths = _decoded_counts(
            counts.encode("ascii", "replace") if isinstance(counts, str) else counts
        )
    else:
        raise ValueError("its counts are neither a list nor text")
    if lengths.min(initial=0) < 0 or lengths.max(initial=0) > pixels or lengths.sum() != pixels:
        raise ValueError("its runs do not add up to the image")
    return lengths


def _decoded_counts(text: bytes) -> np.ndarray:
    """COCO's compressed counts as int64: digits of 5 bits and a continuation bit, from 48 on; from
    the fourth run on differences to the run before the last. Library decoders wrap at 32 bits and
    read past the end; this decoder raises ``ValueError``.
    """
    digits = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - 48
    if not len(digits):
        return digits
    last = (digits & 32) == 0
    if digits.min() < 0 or digits.max() > 63 or not last[-1]:
        raise ValueError("its counts are not compressed run lengths")
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    if (ends - starts).max() > 8:  # 45 bits
        raise ValueError("its runs do not add up to the image")
    shift = 5 * (np.arange(len(digits)) - np.repeat(starts, ends - starts + 1))
    values = np.add.reduceat((digits & 31) << shift, starts)
    values -= np.where(digits[ends] & 16, 1 << (5 * (ends - starts + 1)), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def masks_to_rle(mask_logits: Any, height: int, width: int) -> list[dict[str, Any]]:
    """Predicted masks at image size: bilinear (align_corners False), logit > 0, compressed RLE
    (architecture facts section 11).

    ``mask_logits``: float (k, h, w), torch tensor or array. Returns k dicts ``{"size": [height,
    width], "counts": bytes}``.
    """
    return masks.rles(_as_array(mask_logits), height, width)


def rle_of_bitmap(mask: np.ndarray) -> dict[str, Any]:
    """bool (height, width) -> COCO's compressed RLE for JSON (``counts`` is text)."""
    rle = rle_code.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def rle_of_crop(
    inside: np.ndarray, top: int, left: int, size_hw: tuple[int, int]
) -> dict[str, Any]:
    """COCO's compressed RLE for JSON of a mask that is ``inside``, bool (h, w), at (top, left) px,
    and empty elsewhere; ``size_hw`` is the picture's (height, width). Makes no bitmap of the
    picture.
    """
    height, width = size_hw
    padded = np.zeros((inside.shape[1], inside.shape[0] + 2), dtype=np.int8)
    padded[:, 1:-1] = inside.T
    steps = np.diff(padded, axis=1)
    columns, starts = np.nonzero(steps == 1)
    _, ends = np.nonzero(steps == -1)
    first = (left + columns) * height + top + starts
    last = (left + columns) * height + top + ends
    if len(first):  # a run that goes on in the next column is one run
        apart = first[1:] != last[:-1]
        first, last = first[np.append(True, apart)], last[np.append(apart, True)]
    edges = np.stack([first, last], axis=1).ravel()
    counts = np.diff(np.concatenate([[0], edges, [height * width]]))
    counts = counts[:-1] if counts[-1] == 0 else counts  # as pycocotools writes it
    rle = rle_of({"size": [height, width], "counts": counts.tolist()}, height, width)
    return {"size": [height, width], "counts": rle["counts"].decode("ascii")}


def masks_to_bitmaps(mask_logits: Any, height: int, width: int) -> np.ndarray:
    """Predicted masks at image size as bool (k, height, width), by the rule of
    :func:`masks_to_rle`; needs little memory beyond the result.
    """
    return masks.bitmaps(_as_array(mask_logits), height, width)


class MaskMaps:
    """Masks of one picture, kept as the model's small maps and enlarged one at a time, because a
    hundred masks of a photo take gigabytes as bitmaps.

    ``logits`` float32 (k, h, w); ``size_hw`` of the masks in px. ``maps[row]`` is bool (height,
    width); a list or an array of row numbers selects those masks.
    """

    def __init__(self, logits: Any, size_hw: tuple[int, int]) -> None:
        """Masks of ``logits``, float (k, h, w), an array or a torch tensor, at the size
        ``size_hw``.
        """
        self.logits = _as_array(logits)
        self.size_hw = size_hw

    def __len__(self) -> int:
        return len(self.logits)

    def __getitem__(self, rows: Any) -> Any:
        if isinstance(rows, (int, np.integer)):
            return masks.bitmaps(self.logits[rows][None], *self.size_hw)[0]
        return MaskMaps(self.logits[np.asarray(rows, dtype=np.int64)], self.size_hw)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[row] for row in range(len(self)))

    def at(self, size_hw: tuple[int, int]) -> MaskMaps:
        """The same masks at another size of the picture."""
        return MaskMaps(self.logits, size_hw)

    def rles(self) -> list[dict[str, Any]]:
        """COCO's compressed RLE of each mask, with ``counts`` as text; makes no bitmap."""
        found = masks.rles(self.logits, *self.size_hw)
        return [{"size": rle["size"], "counts": rle["counts"].decode("ascii")} for rle in found]


def _as_array(logits: Any) -> np.ndarray:
    return (
        logits.detach().float().cpu().numpy()
        if hasattr(logits, "detach")
        else np.asarray(logits, dtype=np.float32)
    )
