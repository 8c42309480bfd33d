"""Datumaro's own JSON (one file per subset) as a COCO document: boxes, polygons and masks. Other
annotations are counted and left out.
"""

from __future__ import annotations

from typing import Any

from rfdetr_repro.data.image_files import short

_READ = ("bbox", "polygon", "mask")


def is_datumaro(document: Any) -> bool:
    """Whether parsed JSON is a Datumaro document: a list of items, and an object of categories by
    kind.
    """
    return (
        isinstance(document, dict)
        and isinstance(document.get("items"), list)
        and isinstance(document.get("categories"), dict)
    )


def datumaro_as_coco(document: dict[str, Any]) -> tuple[dict[str, Any], dict[str, int]]:
    """The COCO document, and the number of annotations left out by kind.

    Labels keep their numbers; item ids are kept as text.
    """
    labels = document["categories"].get("label")
    listed = labels.get("labels") if isinstance(labels, dict) else None
    names = (
        [entry.get("name") if isinstance(entry, dict) else None for entry in listed]
        if isinstance(listed, list)
        else []
    )
    result: dict[str, Any] = {"images": [], "annotations": []}
    result["categories"] = [{"id": number, "name": name} for number, name in enumerate(names)]
    left_out: dict[str, int] = {}
    for number, item in enumerate(document["items"]):
        item = _table(item)
        image = _table(item.get("image"))
        key = item.get("id") if isinstance(item.get("id"), str) and item.get("id") else number
        size = image.get("size")
        height, width = size if isinstance(size, list) and len(size) == 2 else (None, None)
        media = _table(item.get("media"))
        name = (
            image.get("path")
            or media.get("path")
            or (f"{key}.jpg" if isinstance(key, str) else None)
        )
        result["images"].append({"id": key, "file_name": name, "height": height, "width": width})
        annotations = item.get("annotations")
        for row in _objects(annotations if isinstance(annotations, list) else [], left_out):
            result["annotations"].append(
                {"id": len(result["annotations"]) + 1, "image_id": key, **row}
            )
    return result, left_out


def _table(value: Any) -> dict[str, Any]:
    """``value``, or an empty object if ``value`` is not an object."""
    return value if isinstance(value, dict) else {}


def _objects(annotations: list[Any], left_out: dict[str, int]) -> list[dict[str, Any]]:
    """Rows of one item.

    Shapes of one group and label (a box with its mask, or the parts of an object) form one object.
    """
    rows: list[dict[str, Any]] = []
    groups: dict[tuple[str, str], dict[str, Any]] = {}
    for entry in annotations:
        row = _row(entry)
        if row is None:
            kind = (
                f"Datumaro annotation of the kind "
                f"{short(entry.get('type') if isinstance(entry, dict) else entry)}"
            )
            left_out[kind] = left_out.get(kind, 0) + 1
            continue
        group = (repr(entry.get("group")), repr(row["category_id"]))
        if not entry.get("group") or group not in groups:
            groups[group] = row
            rows.append(row)
            continue
        first = groups[group]
        first["bbox"] = first["bbox"] or row["bbox"]
        parts = first.get("segmentation"), row.get("segmentation")
        if isinstance(parts[0], list) and isinstance(parts[1], list):
            first["segmentation"] = parts[0] + parts[1]
            first["area"] = None
        elif parts[1] and not parts[0]:
            first["segmentation"] = parts[1]
            first["area"] = row["area"]
    return rows


def _row(entry: Any) -> dict[str, Any] | None:
    if not isinstance(entry, dict) or entry.get("type") not in _READ:
        return None
    attributes = _table(entry.get("attributes"))
    row: dict[str, Any] = {
        "category_id": entry.get("label_id"),
        "iscrowd": attributes.get("is_crowd", 0),
        "area": entry.get("area"),
    }
    if entry["type"] == "polygon":
        return {**row, "bbox": None, "segmentation": [entry.get("points")]}
    if entry["type"] == "mask":
        return {**row, "bbox": None, "segmentation": entry.get("rle")}
    return {**row, "bbox": entry.get("bbox")}
