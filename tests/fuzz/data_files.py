"""Data sets in the other layouts that the commands read, pictures in other formats, and ways to
spoil these.
"""

from __future__ import annotations

import json
import random
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from mutations import Mutation
from PIL import Image

SIZE = 48, 40  # width and height of every picture
_EVALUATE = ("--artifact", "model.onnx", "--threads", "1", "--json", "out.json")
# annotation file -> arguments of the evaluate command that reads the file
DATA = {
    "rle/annotations/instances_val.json": ("--data", "rle"),
    "runs/annotations/instances_val.json": ("--data", "runs"),
    "voc/Annotations/0.xml": ("--data", "voc"),
    "voc/ImageSets/Main/val.txt": ("--data", "voc"),
    "cvat/annotations.xml": ("--data", "cvat"),
    "datumaro/annotations/default.json": ("--data", "datumaro"),
    "polygons/labels/val/0.txt": ("--data", "polygons"),
    "darknet/obj.data": ("--data", "darknet"),
    "labels/classes.txt": ("--data", "labels"),
}
PICTURES = ("p.jpg", "p.webp", "p.gif", "p.tif", "p.bmp", "p16.png", "cmyk.jpg", "turned.jpg")
TEXTS = (".xml", ".data", "classes.txt", "val.txt")
_SIDES = (0, 1, 9000, 60_000, 65_535, 2**31 - 1, 2**32 - 1)
_BOMB = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))


def arguments_of(file: str) -> tuple[str, ...]:
    return (*_EVALUATE, *DATA[file])


def write_data(folder: Path, names: tuple[str, ...], category_ids: tuple[int, ...]) -> None:
    for name in ("rle", "runs"):
        _coco(folder / name, names, category_ids, compressed=name == "rle")
    _voc(folder / "voc", names)
    _cvat(folder / "cvat", names)
    _datumaro(folder / "datumaro", names)
    _yolo(folder / "polygons", names)
    for name in ("darknet", "labels"):
        _flat(folder / name, names)
    for name in PICTURES:
        _picture(folder / name)


def spoiled(file: str, content: bytes, rng: random.Random) -> Iterator[Mutation]:
    """What only this kind of file can suffer from."""
    if file.endswith("data.yaml"):
        for name, text in _yaml():
            yield _content(name, text.encode())
    elif file.endswith(".xml"):
        for name, text in _xml(content.decode()):
            yield _content(name, text.encode(), refuse=True)
    elif Path(file).suffix in (".png", ".jpg", ".webp", ".gif", ".tif", ".bmp"):
        yield from _lying(file, content)


def _content(name: str, data: bytes, refuse: bool = False) -> Mutation:
    def write(path: Path) -> None:
        path.write_bytes(data)

    return Mutation(name, write, refuse)


def _yaml() -> Iterator[tuple[str, str]]:
    head = "path: .\ntrain: images/val\nval: images/val\n"
    levels = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10))
    yield "aliases that blow up", f"a0: &a0 [lol]\n{levels}\n{head}names: *a9\n"
    yield "alias to itself", f"{head}names: &n [*n]\n"
    yield "merge key", f"base: &b {{nc: 3}}\n<<: *b\n{head}names: [car, cat, toothbrush]\n"
    yield "two documents", f"{head}names: [car, cat, toothbrush]\n---\nnc: 3\n"
    yield "names by number", f"{head}names: {{0: car, 1: cat, 99999999999: toothbrush}}\n"
    yield "names with a hole", f"{head}names: {{0: car, 2: toothbrush}}\n"
    yield "names twice", f"{head}names: [car, car, car]\n"
    yield "binary", f"{head}names: [car, !!binary aGVsbG8=, toothbrush]\n"
    yield "complex key", f"{head}? [a, b]\n: c\nnames: [car, cat, toothbrush]\n"
    yield "deep", f"{head}names: {'[' * 20_000}{']' * 20_000}\n"
    yield "many names", f"{head}names: [{', '.join(f'n{n}' for n in range(100_000))}]\n"
    yield "splits of numbers", "train: 1\nval: 2020-01-01\nnames: [car, cat, toothbrush]\n"
    yield "split with a new line", 'val: "images\\n/val"\ntrain: x\nnames: [car, cat, toothbrush]\n'


def _xml(text: str) -> Iterator[tuple[str, str]]:
    body = text.partition("?>")[2] or text
    yield "entities that blow up", f'<!DOCTYPE a [<!ENTITY e0 "lol">{_BOMB}]>{body}'
    yield "entity of a file", f'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>{body}'
    yield "deep", "<a>" * 50_000
    yield "another root", "<html/>"
    yield "cut tag", text[:-8]
    yield "unknown encoding", f'<?xml version="1.0" encoding="utf-99"?>{body}'
    yield "utf-16 that is not", f'<?xml version="1.0" encoding="utf-16"?>{body}'


def _lying(file: str, content: bytes) -> Iterator[Mutation]:
    """Pictures that state another size than they have."""
    for side in _SIDES:
        for name, sides in (
            ("both sides", (side, side)),
            ("width", (side, SIZE[1])),
            ("height", (SIZE[0], side)),
        ):
            if (data := _with_size(file, content, *sides)) is not None:
                yield _content(f"{name} stated as {side}", data)


def _with_size(file: str, content: bytes, width: int, height: int) -> bytes | None:
    suffix = Path(file).suffix
    changed = bytearray(content)
    if suffix == ".png":
        changed[16:24] = struct.pack(">II", width, height)
        changed[29:33] = struct.pack(">I", zlib.crc32(changed[12:29]))
        return bytes(changed)
    if suffix == ".bmp":
        changed[18:26] = struct.pack("<II", width, height)
        return bytes(changed)
    if suffix == ".tif":
        for old, new in (
            (struct.pack("<HHI", 0x100, 4, 1), width),
            (struct.pack("<HHI", 0x101, 4, 1), height),
        ):
            if (place := content.find(old)) >= 0:
                changed[place + 8 : place + 12] = struct.pack("<I", new)
        return bytes(changed) if bytes(changed) != content else None
    if max(width, height) > 65_535:
        return None
    if suffix == ".gif":
        changed[6:10] = struct.pack("<HH", width, height)
        return bytes(changed)
    if suffix == ".jpg" and (place := content.find(b"\xff\xc0")) >= 0:
        changed[place + 5 : place + 9] = struct.pack(">HH", height, width)
        return bytes(changed)
    return None


def _image(path: Path, seed: int = 0) -> Image.Image:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def _picture(path: Path) -> None:
    image = _image(path)
    if path.name == "p16.png":
        image = Image.fromarray(np.asarray(image)[..., 0].astype(np.uint16) * 257)
    if path.name == "cmyk.jpg":
        image = image.convert("CMYK")
    exif = image.getexif()
    if path.name == "turned.jpg":
        exif[0x0112] = 6
    image.save(path, **({"exif": exif} if path.name == "turned.jpg" else {}))


def _coco(
    folder: Path, names: tuple[str, ...], category_ids: tuple[int, ...], compressed: bool
) -> None:
    from faster_coco_eval.core import mask as rle_code

    bitmap = np.zeros((SIZE[1], SIZE[0]), np.uint8, order="F")
    bitmap[4:20, 4:20] = 1
    rle = rle_code.encode(bitmap)
    text = {"size": [SIZE[1], SIZE[0]], "counts": bytes(rle["counts"]).decode()}
    edges = [0, *(np.flatnonzero(np.diff(bitmap.ravel("F"))) + 1).tolist(), bitmap.size]
    segmentation = (
        text if compressed else {"size": [SIZE[1], SIZE[0]], "counts": np.diff(edges).tolist()}
    )
    entry = {
        "id": 1,
        "image_id": "a",
        "category_id": category_ids[0],
        "bbox": [4, 4, 16, 16],
        "area": 256,
        "iscrowd": 0,
    }
    crowd = {**entry, "id": 2, "iscrowd": 1}
    _image(folder / "val" / "a.png").save(folder / "val" / "a.png")
    document = {
        "images": [{"id": "a", "file_name": "a.png", "width": SIZE[0], "height": SIZE[1]}],
        "annotations": [
            {**entry, "segmentation": segmentation},
            {**crowd, "segmentation": segmentation},
        ],
        "categories": [
            {"id": number, "name": name} for number, name in zip(category_ids, names, strict=True)
        ],
    }
    path = folder / "annotations" / "instances_val.json"
    path.parent.mkdir()
    path.write_text(json.dumps(document))


def _voc(folder: Path, names: tuple[str, ...]) -> None:
    for number in range(2):
        _image(folder / "JPEGImages" / f"{number}.png", number).save(
            folder / "JPEGImages" / f"{number}.png"
        )
        polygon = (
            "<polygon><x1>5</x1><y1>5</y1><x2>20</x2><y2>5</y2><x3>20</x3><y3>20</y3></polygon>"
        )
        objects = "".join(
            f"<object><name>{name}</name><difficult>0</difficult><bndbox><xmin>5</xmin><ymin>5</ymin><xmax>20</xmax>"
            f"<ymax>20</ymax></bndbox>{polygon}</object>"
            for name in names
        )
        size = f"<size><width>{SIZE[0]}</width><height>{SIZE[1]}</height><depth>3</depth></size>"
        path = folder / "Annotations" / f"{number}.xml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            f"<?xml "
            f'version="1.0"?><annotation><filename>{number}.png</filename>{size}{objects}</annotation>'
        )
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    (folder / "ImageSets" / "Main" / "val.txt").write_text("0\n1\n")


def _cvat(folder: Path, names: tuple[str, ...]) -> None:
    _image(folder / "images" / "0.png").save(folder / "images" / "0.png")
    labels = "".join(f"<label><name>{name}</name></label>" for name in names)
    shapes = (
        f'<box label="{names[0]}" xtl="4" ytl="4" xbr="20" ybr="20" rotation="0"/>'
        f'<polygon label="{names[1]}" points="4,4;20,4;20,20"/>'
        f'<mask label="{names[2]}" left="4" top="5" width="4" height="3" rle="2, 5, 5"/>'
    )
    image = (
        f'<image id="0" name="0.png" subset="val" width="{SIZE[0]}" '
        f'height="{SIZE[1]}">{shapes}</image>'
    )
    task = f"<meta><task><labels>{labels}</labels></task></meta>"
    (folder / "annotations.xml").write_text(
        f'<?xml version="1.0"?><annotations>{task}{image}</annotations>'
    )


def _datumaro(folder: Path, names: tuple[str, ...]) -> None:
    _image(folder / "images" / "default" / "a.png").save(folder / "images" / "default" / "a.png")
    annotations = [
        {
            "id": 1,
            "type": "polygon",
            "label_id": 0,
            "group": 1,
            "points": [4, 4, 20, 4, 20, 20],
            "attributes": {},
        },
        {
            "id": 2,
            "type": "bbox",
            "label_id": 1,
            "group": 2,
            "bbox": [4, 4, 16, 16],
            "attributes": {"is_crowd": False},
        },
    ]
    item = {
        "id": "a",
        "annotations": annotations,
        "image": {"path": "a.png", "size": [SIZE[1], SIZE[0]]},
    }
    labels = {"label": {"labels": [{"name": name} for name in names]}}
    path = folder / "annotations" / "default.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"info": {}, "categories": labels, "items": [item]}))


def _yolo(folder: Path, names: tuple[str, ...]) -> None:
    _image(folder / "images" / "val" / "0.png").save(folder / "images" / "val" / "0.png")
    (folder / "labels" / "val").mkdir(parents=True)
    (folder / "labels" / "val" / "0.txt").write_text(
        "0 0.1 0.1 0.5 0.1 0.5 0.5\n2 0.2 0.3 0.9 0.3 0.9 0.8 0.2 0.8\n"
    )
    (folder / "data.yaml").write_text(
        f"path: .\ntrain: images/val\nval: images/val\nnames: [{', '.join(names)}]\n"
    )


def _flat(folder: Path, names: tuple[str, ...]) -> None:
    """Pictures with label files beside them, a list of the pictures, and the class names in
    darknet's and in the plain form.
    """
    _image(folder / "images" / "0.png").save(folder / "images" / "0.png")
    (folder / "images" / "0.txt").write_text("0 0.5 0.5 0.25 0.3\n")
    (folder / "val.txt").write_text("images/0.png\n")
    for name in ("obj.names",) if folder.name == "darknet" else ("classes.txt",):
        (folder / name).write_text("\n".join(names) + "\n")
    if folder.name != "darknet":
        return
    (folder / "obj.data").write_text(
        "classes = 3\ntrain = val.txt\nval = val.txt\nnames = obj.names\nbackup = backup/\n"
    )
