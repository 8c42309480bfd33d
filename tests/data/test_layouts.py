"""The layouts a data set may come in, each with the same two pictures and boxes; supervision's
writers are an outside oracle.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples_layouts import BOXES, HEIGHT, NAMES, WIDTH, check, coco, corners, pictures, write_json

from rfdetr_repro.data.census import check_usable
from rfdetr_repro.data.coco import has_split, read_split
from rfdetr_repro.data.source import DataSource, ExplicitSplit
from rfdetr_repro.spec.errors import InputError


def yolo_labels(folder: Path, prefix: str = "", polygons: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for stem, boxes in BOXES.items():
        lines = []
        for number, (x, y, w, h) in enumerate(boxes):
            values = [(x + w / 2) / WIDTH, (y + h / 2) / HEIGHT, w / WIDTH, h / HEIGHT]
            if polygons:
                values = [
                    value / side
                    for value, side in zip(corners((x, y, w, h)), (WIDTH, HEIGHT) * 4, strict=True)
                ]
            lines.append(" ".join(map(str, [number, *values])))
        (folder / f"{prefix}{stem}.txt").write_text("\n".join(lines))


def images_and(layout: str, root: Path) -> None:
    """Writes BOXES as one COCO layout."""
    files = {
        "coco": ("annotations/instances_train.json", "train"),
        "coco 2017": ("annotations/instances_train2017.json", "train2017"),
        "datumaro and cvat": ("annotations/instances_train.json", "images/train"),
        "flat images": ("annotations/instances_train.json", "images"),
        "roboflow": ("train/_annotations.coco.json", "train"),
        "roboflow undivided": ("_annotations.coco.json", "."),
        "fiftyone": ("labels.json", "data"),
        "fiftyone by split": ("train/labels.json", "train/data"),
        "label studio": ("result.json", "images"),
        "cvat": ("annotations/instances_default.json", "images"),
        "cvat in a subset": ("annotations/instances_default.json", "images/default"),
        "lvis": ("annotations/lvis_v1_train.json", "train2017"),
        "objects365": ("annotations/zhiyuan_objv2_train.json", "train"),
    }
    path, images = files[layout]
    pictures(root / images)
    write_json(root / path, coco())


COCO_LAYOUTS = [
    "coco",
    "coco 2017",
    "datumaro and cvat",
    "flat images",
    "roboflow",
    "roboflow undivided",
    "fiftyone",
]
COCO_LAYOUTS += [
    "fiftyone by split",
    "label studio",
    "cvat",
    "cvat in a subset",
    "lvis",
    "objects365",
]


@pytest.mark.parametrize("layout", COCO_LAYOUTS)
def test_layouts_of_coco_json(layout: str, tmp_path: Path) -> None:
    images_and(layout, tmp_path)
    found = check(tmp_path)
    assert found.classes.category_ids == (5, 6) and found.has_masks
    assert (
        has_split(tmp_path, "train")
        and not has_split(tmp_path, "val")
        and not has_split(tmp_path, "test")
    )


@pytest.mark.parametrize(
    "name",
    [
        "images/{}.jpg",  # CVAT with a folder of its task
        # Label Studio's media folder
        "..\\/..\\/label-studio\\/data\\/media\\/upload\\/1\\/{}.jpg",
        "/data/upload/12/{}.jpg",
        "/data/local-files/?d=photos/{}.jpg",
        "https://example.com/bucket/{}.jpg?token=1",
        "C:\\Users\\me\\photos\\{}.jpg",
        "images/v1/patch8/{}.jpg",  # Objects365 v2
    ],
)
def test_names_with_a_path_that_is_not_here(name: str, tmp_path: Path) -> None:
    pictures(tmp_path / "images")
    quoted = name.startswith("http")
    write_json(
        tmp_path / "result.json",
        coco(lambda stem: name.format(stem.replace(" ", "%20") if quoted else stem)),
    )
    check(tmp_path)


def test_objects365_as_it_is_published(tmp_path: Path) -> None:
    """File names with the patch folder, ids above 2^31, iscrowd as a float, no segmentation."""
    pictures(tmp_path / "train" / "patch8")
    document = coco(lambda stem: f"images/v2/patch8/{stem}.jpg")
    for entry in document["annotations"]:
        entry.update(id=entry["id"] + 2**33, image_id=entry["image_id"] + 2**33, iscrowd=0.0)
        del entry["segmentation"]
    for image in document["images"]:
        image.update(id=image["id"] + 2**33)
    write_json(tmp_path / "annotations" / "zhiyuan_objv2_train.json", document)
    found = check(tmp_path)
    assert not found.has_masks and found.images[0].id == 2**33 + 1


def test_lvis_as_it_is_published(tmp_path: Path) -> None:
    """No file_name but coco_url, in folders of another split; no iscrowd; keys of its own;
    categories that are not used.
    """
    pictures(tmp_path / "train2017")
    document = coco()
    for image in document["images"]:
        name = image.pop("file_name")
        address = f"http://images.cocodataset.org/train2017/{name}"
        image.update(coco_url=address, neg_category_ids=[6], not_exhaustive_category_ids=[])
    for entry in document["annotations"]:
        del entry["iscrowd"]
    document["categories"].append(
        {"id": 9, "name": "rare", "frequency": "r", "synset": "rare.n.01"}
    )
    write_json(tmp_path / "lvis_v1_val.json", document)
    assert check(tmp_path, "val").classes.names == ("cat", "dog", "rare")


@pytest.mark.parametrize("nesting", ["train/images", "images/train"])
@pytest.mark.parametrize("key", ["val", "valid", "validation"])
def test_yolo_nestings_and_names_of_val(nesting: str, key: str, tmp_path: Path) -> None:
    pictures(tmp_path / nesting)
    yolo_labels(tmp_path / nesting.replace("images", "labels"))
    (tmp_path / "data.yaml").write_text(
        f"names: [cat, dog]\nnc: 2\ntrain: {nesting}\n{key}: ./{nesting}/\n"
    )
    for data in (tmp_path, tmp_path / "data.yaml"):
        check(data, "train")
        check(data, "val")
        assert has_split(data, "val") and not has_split(data, "test")
    assert read_split(tmp_path / "data.yaml", "train").name == tmp_path.name


def test_yolo_path_absolute_relative_and_of_another_machine(tmp_path: Path) -> None:
    pictures(tmp_path / "set" / "images")
    yolo_labels(tmp_path / "set" / "labels", polygons=True)
    for where in (tmp_path / "set", "set", "../" + tmp_path.name + "/set"):
        (tmp_path / "other.yaml").write_text(
            f"path: {where}\nnames: {{0: cat, 1: dog}}\ntrain: images\n"
        )
        assert check(tmp_path / "other.yaml").has_masks
    (tmp_path / "set" / "data.yaml").write_text(
        "path: /content/datasets/x\nnames: {0: cat, 1: dog}\ntrain: images\n"
    )
    check(tmp_path / "set")


def test_label_studio_yolo(tmp_path: Path) -> None:
    """images/ and labels/ with a prefix of eight digits, classes.txt, notes.json; no data.yaml and
    no splits.
    """
    pictures(tmp_path / "images", "0a1b2c3d-")
    yolo_labels(tmp_path / "labels", "0a1b2c3d-")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    write_json(
        tmp_path / "notes.json",
        {"categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]},
    )
    check(tmp_path)
    assert not has_split(tmp_path, "val")


def test_cvat_yolo_1_1(tmp_path: Path) -> None:
    """Darknet's files; the paths start with data/, which is not in the archive."""
    pictures(tmp_path / "obj_train_data")
    yolo_labels(tmp_path / "obj_train_data")
    (tmp_path / "obj.names").write_text("cat\ndog\n")
    (tmp_path / "obj.data").write_text(
        "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n"
    )
    (tmp_path / "train.txt").write_text(
        "".join(f"data/obj_train_data/{stem}.jpg\n" for stem in BOXES)
    )
    check(tmp_path)
    assert not has_split(tmp_path, "val")
    (tmp_path / "obj.names").unlink()
    with pytest.raises(InputError, match="class names is missing"):
        read_split(tmp_path, "train")


def test_datumaro_json(tmp_path: Path) -> None:
    pictures(tmp_path / "images" / "train")
    items = []
    for stem, boxes in BOXES.items():
        shapes: list[dict[str, Any]] = []
        for number, box in enumerate(boxes):
            common = {
                "id": number,
                "attributes": {"is_crowd": False},
                "group": number + 1,
                "label_id": number,
                "z_order": 0,
            }
            shapes.append({**common, "type": "bbox", "bbox": list(box)})
            shapes.append({**common, "type": "polygon", "points": corners(box)})
        shapes.append(
            {"id": 9, "type": "caption", "caption": "two animals", "attributes": {}, "group": 0}
        )
        image = {"path": f"{stem}.jpg", "size": [HEIGHT, WIDTH]}
        items.append({"id": stem, "annotations": shapes, "attr": {"frame": 0}, "image": image})
    labels = [{"name": name, "parent": "", "attributes": []} for name in NAMES]
    write_json(
        tmp_path / "annotations" / "train.json",
        {
            "info": {},
            "categories": {"label": {"labels": labels, "attributes": []}, "points": {"items": []}},
            "items": items,
        },
    )
    found = check(tmp_path)
    assert found.has_masks and found.dropped == {"Datumaro annotation of the kind caption": 2}
    assert [info.id for info in found.images] == list(BOXES)


def cvat_xml(shapes: Callable[[int, tuple[int, ...]], str]) -> str:
    labels = "".join(
        f"<label><name>{name}</name><attributes></attributes></label>" for name in NAMES
    )
    images = ""
    for number, (stem, boxes) in enumerate(BOXES.items()):
        inside = "".join(shapes(label, box) for label, box in enumerate(boxes))
        images += (
            f'<image id="{number}" name="{stem}.jpg" width="{WIDTH}" '
            f'height="{HEIGHT}">{inside}</image>'
        )
    meta = f"<version>1.1</version><meta><job><labels>{labels}</labels></job></meta>"
    return f"<?xml version='1.0'?><annotations>{meta}{images}</annotations>"


def cvat_box(label: int, box: tuple[int, ...], more: str = "") -> str:
    x, y, w, h = box
    sides = f'xtl="{x}.00" ytl="{y}.00" xbr="{x + w}.00" ybr="{y + h}.00"'
    return (
        f'<box label="{NAMES[label]}" source="manual" occluded="0" {sides} z_order="0" '
        f"{more}></box>"
    )


def cvat_polygon(label: int, box: tuple[int, ...]) -> str:
    points = corners(box)
    pairs = ";".join(f"{x}.00,{y}.00" for x, y in zip(points[::2], points[1::2], strict=True))
    return f'<polygon label="{NAMES[label]}" points="{pairs}" z_order="0"></polygon>'


def cvat_mask(label: int, box: tuple[int, ...]) -> str:
    x, y, w, h = box
    return (
        f'<mask label="{NAMES[label]}" rle="0, {w * h}" left="{x}" top="{y}" width="{w}" '
        f'height="{h}" z_order="0"></mask>'
    )


@pytest.mark.parametrize("shape", [cvat_box, cvat_polygon, cvat_mask])
def test_cvat_for_images(shape: Any, tmp_path: Path) -> None:
    pictures(tmp_path / "images")
    (tmp_path / "annotations.xml").write_text(cvat_xml(shape))
    found = check(tmp_path)
    if found.has_masks:
        masks = found.sample(0, masks=True).masks
        assert masks is not None and [int(mask.sum()) for mask in masks] == [
            w * h for _, _, w, h in BOXES["a"]
        ]
    assert found.has_masks == (shape is not cvat_box)


def test_cvat_project_with_subsets(tmp_path: Path) -> None:
    """CVAT writes Train and Validation; an image of no subset is in no split, and counted."""
    rows = cvat_xml(cvat_box)
    for subset, stem in (("Train", "a"), ("Validation", "b b")):
        rows = rows.replace(f'name="{stem}.jpg"', f'name="{stem}.jpg" subset="{subset}"')
        pictures(tmp_path / "images" / subset)
    more = f'<image id="7" name="more.jpg" width="{WIDTH}" height="{HEIGHT}"></image>'
    rows = rows.replace("</annotations>", f"{more}</annotations>")
    (tmp_path / "annotations.xml").write_text(rows)
    path = tmp_path / "annotations.xml"
    named = DataSource(tmp_path, (("train", ExplicitSplit(path)), ("val", ExplicitSplit(path))))
    for data in (tmp_path, named):
        splits = [read_split(data, split) for split in ("train", "val")]
        assert [[info.path.name for info in split.images] for split in splits] == [
            ["a.jpg"],
            ["b b.jpg"],
        ]
        assert [split.images[0].path.parent.name for split in splits] == ["Train", "Validation"]
        assert splits[0].dropped == {"CVAT image that is in no subset": 1}
        check_usable(splits)
        assert not has_split(data, "test")


def test_cvat_file_without_subsets_is_not_two_splits(tmp_path: Path) -> None:
    pictures(tmp_path / "images")
    path = tmp_path / "annotations.xml"
    path.write_text(cvat_xml(cvat_box))
    named = DataSource(tmp_path, (("train", ExplicitSplit(path)), ("val", ExplicitSplit(path))))
    with pytest.raises(InputError, match="would be the same images"):
        check_usable([read_split(named, "train"), read_split(named, "val")])


def test_cvat_rotated_box_is_refused_or_left_out(tmp_path: Path) -> None:
    pictures(tmp_path / "images")
    text = cvat_xml(lambda label, box: cvat_box(label, box, 'rotation="30.0"' if label else ""))
    (tmp_path / "annotations.xml").write_text(text)
    with pytest.raises(InputError, match="is rotated.*--drop-bad"):
        read_split(tmp_path, "train")
    found = read_split(tmp_path, "train", drop_bad=True)
    assert sum(found.objects_per_class()) == 2 and found.dropped == {
        "CVAT shape that is malformed": 1
    }


def voc_xml(stem: str) -> str:
    """As the devkit counts: from 1, both ends included."""
    objects = ""
    for number, (x, y, w, h) in enumerate(BOXES[stem]):
        sides = f"<xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax>"
        named = f"<name>{NAMES[number]}</name><difficult>0</difficult>"
        objects += f"<object>{named}<bndbox>{sides}</bndbox></object>"
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    return (
        f"<annotation><folder>V</folder><filename>{stem}.jpg</filename>"
        f"<source><database>Unknown</database></source>{size}{objects}</annotation>"
    )


@pytest.mark.parametrize("nested", [".", "VOC2007", "VOCdevkit/VOC2012"])
def test_voc_devkit(nested: str, tmp_path: Path) -> None:
    root = tmp_path / nested
    pictures(root / "JPEGImages")
    (root / "Annotations").mkdir(parents=True)
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for stem in BOXES:
        (root / "Annotations" / f"{stem.replace(' ', '_')}.xml").write_text(voc_xml(stem))
    listed = "".join(f"{stem.replace(' ', '_')}\n" for stem in BOXES)
    (root / "ImageSets" / "Main" / "train.txt").write_text(listed)
    (root / "ImageSets" / "Main" / "val.txt").write_text("a\n")
    found = check(tmp_path)
    assert found.classes.category_ids == (1, 2)
    assert len(read_split(tmp_path, "val", found.classes)) == 1 and not has_split(tmp_path, "test")


def test_voc_beside_the_images_of_each_split(tmp_path: Path) -> None:
    """Roboflow's export; the classes are those of all splits, so that a split without a dog has the
    same numbers.
    """
    for name, stems in (("train", list(BOXES)), ("valid", ["b b"])):
        pictures(tmp_path / name)
        for stem in stems:
            (tmp_path / name / f"{stem}.xml").write_text(voc_xml(stem))
    check(tmp_path)
    assert read_split(tmp_path, "val").classes.names == NAMES


def test_xml_with_a_document_type_is_refused(tmp_path: Path) -> None:
    pictures(tmp_path)
    (tmp_path / "a.xml").write_text('<!DOCTYPE a [<!ENTITY x "y">]>' + voc_xml("a"))
    with pytest.raises(InputError, match="document type"):
        read_split(tmp_path, "train")
    (tmp_path / "a.xml").write_text("<annotation>")
    with pytest.raises(InputError, match="not XML"):
        read_split(tmp_path, "train")


def test_files_named_by_hand(tmp_path: Path) -> None:
    pictures(tmp_path / "somewhere" / "photos")
    write_json(tmp_path / "elsewhere" / "mine.json", coco())
    named = ExplicitSplit(tmp_path / "elsewhere" / "mine.json", tmp_path / "somewhere" / "photos")
    source = DataSource(named.annotations, (("train", named),))
    assert check(source).name == "mine" and check(source.resolve()).name == "mine"
    assert has_split(source, "train") and not has_split(source, "val")
    with pytest.raises(InputError, match="no annotation file of the val split.*--annotations-val"):
        read_split(source, "val")
    shutil.copytree(tmp_path / "somewhere" / "photos", tmp_path / "elsewhere" / "images")
    # beside the file
    check(DataSource(named.annotations, (("val", ExplicitSplit(named.annotations)),)), "val")
    check(tmp_path / "elsewhere" / "mine.json")  # the file as the data set


def test_what_supervision_writes(tmp_path: Path) -> None:
    """Its COCO, YOLO and Pascal VOC files of one data set of boxes give these boxes back, to the
    rounding of their numbers.
    """
    sv = pytest.importorskip("supervision", reason="supervision is not installed")
    pictures(tmp_path / "source")
    annotations = {}
    for stem, boxes in BOXES.items():
        corners_xyxy = np.array([(x, y, x + w, y + h) for x, y, w, h in boxes], dtype=float)
        annotations[str(tmp_path / "source" / f"{stem}.jpg")] = sv.Detections(
            xyxy=corners_xyxy, class_id=np.arange(len(boxes))
        )
    written = sv.DetectionDataset(
        classes=list(NAMES), images=list(annotations), annotations=annotations
    )
    written.as_coco(str(tmp_path / "coco" / "images"), str(tmp_path / "coco" / "annotations.json"))
    written.as_pascal_voc(str(tmp_path / "voc" / "images"), str(tmp_path / "voc" / "annotations"))
    for name, images, labels in (
        ("yolo", "train/images", "train/labels"),
        ("flat", "images", "labels"),
    ):
        root = tmp_path / name
        written.as_yolo(str(root / images), str(root / labels), str(root / "data.yaml"))
    for name in ("coco", "voc", "yolo", "flat"):
        check(tmp_path / name, atol=1e-2)


def test_a_folder_in_no_form_names_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"no COCO split 'val'.*instances_val.json.*data.yaml.*docs/data.md"
    ):
        read_split(tmp_path, "val")
    with pytest.raises(InputError, match="no such data folder") as error:
        read_split(tmp_path / ("x" * 5000), "val")
    assert len(str(error.value)) < 400
