"""Segmentations: kept as the text of the annotation file until one is wanted, then rasterised.

In COCO's train file nine tenths of the text are polygon coordinates. Cutting them out before parsing makes reading several times
faster and keeps hundreds of megabytes of text instead of gigabytes of Python numbers.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from faster_coco_eval.core import mask as rle_code

from .. import masks

SPAN_KEY = "@span"  # stands in an annotation where its "segmentation" was cut out
_KEY = b'"segmentation"'
_COLON = re.compile(rb"\s*:\s*([\[{])")


@dataclass(frozen=True)
class Segmentations:
    """The segmentations of a file by row of its annotation table: text spans, and the few that were parsed with the rest."""

    content: bytes
    starts: np.ndarray  # int64 (n,), -1 where ``inline`` holds it
    ends: np.ndarray  # int64 (n,)
    inline: dict[int, Any]

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, row: int) -> Any:
        """Polygons, RLE object, or None where absent. Raises ``ValueError`` for text that is not JSON."""
        if self.starts[row] < 0:
            return self.inline.get(row)
        return json.loads(self.content[self.starts[row] : self.ends[row]])

    def filled(self) -> np.ndarray:
        """bool (n,): which rows have something beyond ``[]``, without parsing any."""
        filled = (self.ends - self.starts) > len("[[]]")
        filled[[row for row, value in self.inline.items() if value]] = True
        return filled


def cut_segmentations(content: bytes) -> tuple[bytes, np.ndarray]:
    """(JSON text with ``"@span": k`` for the k-th segmentation, spans int64 (k, 2) into ``content``).

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
    """Span of the list of numbers or flat object after a key; empty for anything else, which is then parsed with the rest."""
    value = _COLON.match(content, position)
    if value is None:
        return position, position
    start, brace = value.end() - 1, content.find(b"}", value.end())
    if value[1] == b"{":
        return start, brace + 1
    quote = content.find(b'"', value.end(), brace)  # a list of numbers ends before the next key or the end of its object
    return start, content.rfind(b"]", start, quote if quote >= 0 else brace) + 1


def gather_segmentations(content: bytes, spans: np.ndarray, entries: list[dict[str, Any]]) -> Segmentations:
    """Segmentations of ``entries`` (annotation objects), in their order."""
    numbers = np.fromiter((entry.get(SPAN_KEY, -1) if len(spans) else -1 for entry in entries), np.int64, len(entries))
    padded = np.concatenate([spans, [[-1, -1]]])[numbers]  # -1 picks the padding
    inline = {row: entries[row].get("segmentation") for row in np.flatnonzero(numbers < 0).tolist()}
    return Segmentations(content, padded[:, 0], padded[:, 1], inline)


def decode_mask(segmentation: Any, height: int, width: int) -> np.ndarray:
    """Rasterises a COCO segmentation (polygons, uncompressed or compressed RLE) to bool (height, width).

    Raises ``ValueError``, ``TypeError``, ``KeyError`` or ``RuntimeError`` for one that is empty, malformed or of another size.
    """
    lengths = _run_lengths(segmentation, height, width)
    inside = np.zeros(len(lengths), dtype=bool)
    inside[1::2] = True  # runs alternate, starting outside, down the columns
    return np.repeat(inside, lengths).reshape(width, height).T


def rle_of(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """A COCO segmentation as compressed RLE ``{"size": [height, width], "counts": bytes}``; raises as :func:`decode_mask`."""
    lengths = _run_lengths(segmentation, height, width)
    return rle_code._mask.frUncompressedRLE([{"size": [height, width], "counts": lengths.tolist()}])[0]


def _run_lengths(segmentation: Any, height: int, width: int) -> np.ndarray:
    """Checked run lengths, int64 (runs,)."""
    if not segmentation:
        raise ValueError("it is empty")
    rle = _merge_polygons(segmentation, height, width) if isinstance(segmentation, list) else segmentation
    if list(rle["size"]) != [height, width]:
        raise ValueError(f"its size is {rle['size']}, the image's is {[height, width]}")
    counts = rle["counts"] if isinstance(rle["counts"], list) else rle_code._mask.toUncompressedRLE([rle])[0]["counts"]
    lengths = np.asarray(counts, dtype=np.int64)
    if lengths.min(initial=0) < 0 or lengths.sum() != height * width:  # the library's decoder does not check
        raise ValueError("its runs do not add up to the image")
    return lengths


def _merge_polygons(polygons: list[Any], height: int, width: int) -> dict[str, Any]:
    if any(len(polygon) < 6 or len(polygon) % 2 for polygon in polygons):
        raise ValueError("a polygon has fewer than three points or an odd number of values")
    values = [np.asarray(polygon, dtype=np.float64) for polygon in polygons]
    if not (np.abs(np.concatenate(values)) <= 4 * max(height, width)).all():  # the rasteriser walks every pixel of the outline
        raise ValueError("a polygon lies far outside the image or is not finite")
    return rle_code.merge(rle_code.frPyObjects([polygon.tolist() for polygon in values], height, width))


def masks_to_rle(mask_logits: Any, height: int, width: int) -> list[dict[str, Any]]:
    """Predicted masks at image size: bilinear (align_corners False), logit > 0, compressed RLE (architecture facts section 11).

    ``mask_logits``: float (k, h, w), torch tensor or array. Returns k dicts ``{"size": [height, width], "counts": bytes}``.
    """
    return masks.rles(_as_array(mask_logits), height, width)


def rle_of_bitmap(mask: np.ndarray) -> dict[str, Any]:
    """bool (height, width) -> COCO's compressed RLE as JSON takes it (``counts`` is text)."""
    rle = rle_code.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def masks_to_bitmaps(mask_logits: Any, height: int, width: int) -> np.ndarray:
    """Predicted masks at image size as bool (k, height, width), by the rule of :func:`masks_to_rle`; nothing large beside it."""
    return masks.bitmaps(_as_array(mask_logits), height, width)


def _as_array(logits: Any) -> np.ndarray:
    return logits.detach().float().cpu().numpy() if hasattr(logits, "detach") else np.asarray(logits, dtype=np.float32)
