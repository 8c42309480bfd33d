"""One decoder for training, evaluation, prediction and the float16 audit: every mode of pixels,
every EXIF orientation.
"""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from rfdetr_repro.bench.scopes import PICTURE_HW, picture_bytes
from rfdetr_repro.data.census import print_census
from rfdetr_repro.data.coco import read_split
from rfdetr_repro.data.decoding import decode, decode_array, decode_reduced, read_header, reduced
from rfdetr_repro.evaluation.predict_images import load_picture
from rfdetr_repro.export.fp16_audit import feeds_of
from rfdetr_repro.spec.errors import InputError

HEIGHT = 40
WIDTH = 60


def ramp() -> np.ndarray:
    """uint8 (40, 60) that no turn or flip maps onto itself."""
    return np.add.outer(np.arange(HEIGHT) * 3, np.arange(WIDTH) * 2).astype(np.uint8)


def colours() -> np.ndarray:
    return np.stack([ramp(), 255 - ramp(), ramp() // 2], axis=2)


def save(image: Image.Image, suffix: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, suffix, **options)
    return stream.getvalue()


def transparent(mode: str) -> Image.Image:
    image = Image.fromarray(colours()).convert(mode)
    image.putalpha(Image.fromarray(ramp()))
    return image


def tiff(bits: int, photometric: int, pixels: bytes, kind: int = 1) -> bytes:
    """A TIFF of one grey channel. ``photometric``: 0 where white is zero, 1 where black is.
    ``kind`` of the numbers: 1 whole, 3 floating.
    """
    tags = {256: WIDTH, 257: HEIGHT, 258: bits, 259: 1, 262: photometric, 277: 1, 278: HEIGHT}
    tags |= {273: 0, 279: len(pixels), 339: kind}
    tags[273] = 14 + 12 * len(tags)  # where the pixels begin: behind this list
    listed = b"".join(struct.pack("<HHII", tag, 4, 1, tags[tag]) for tag in sorted(tags))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + listed + bytes(4) + pixels


def in_12_bits() -> bytes:
    """The ramp in packed numbers of 12 bits."""
    numbers = (ramp().astype(int) * 4095 // 255).ravel()
    return bytes.fromhex("".join(f"{number:03x}" for number in numbers))


GREY = np.repeat(ramp()[..., None], 3, axis=2)
WIDE = ramp().astype(np.uint16) * 257
MODES = {  # name -> file, and what is expected
    "L": (lambda: save(Image.fromarray(ramp()), "PNG"), GREY),
    "1": (lambda: save(Image.fromarray(ramp() > 90), "PNG"), (GREY > 90) * 255),
    "RGBA": (lambda: save(transparent("RGB"), "PNG"), colours()),
    "16 bit PNG": (lambda: save(Image.fromarray(WIDE), "PNG"), GREY),
    "16 bit TIFF": (lambda: save(Image.fromarray(WIDE), "TIFF"), GREY),
    "32 bit": (lambda: save(Image.fromarray(WIDE.astype(np.int32)), "TIFF"), GREY),
    "12 bit TIFF": (lambda: tiff(12, 1, in_12_bits()), GREY),
    "16 bit TIFF, white is zero": (lambda: tiff(16, 0, (65535 - WIDE).tobytes()), GREY),
    "float TIFF, white is zero": (
        lambda: tiff(32, 0, (1 - ramp().astype(np.float32) / 255).tobytes(), kind=3),
        GREY,
    ),
    "float 0..1": (lambda: save(Image.fromarray(ramp().astype(np.float32) / 255), "TIFF"), GREY),
    "float 0..255": (lambda: save(Image.fromarray(ramp().astype(np.float32)), "TIFF"), GREY),
    "float 0..65535": (lambda: save(Image.fromarray(WIDE.astype(np.float32)), "TIFF"), GREY),
    "BMP": (lambda: save(Image.fromarray(colours()), "BMP"), colours()),
    "WebP": (lambda: save(Image.fromarray(colours()), "WEBP", lossless=True), colours()),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_becomes_the_same_rgb(mode: str, tmp_path: Path) -> None:
    content = MODES[mode][0]()
    expected = MODES[mode][1].astype(np.uint8)
    found = decode(content)
    assert found.dtype == np.uint8 and np.array_equal(found, expected)
    (tmp_path / "a.bin").write_bytes(content)
    with open(tmp_path / "a.bin", "rb") as stream:
        for source in (
            tmp_path / "a.bin",
            str(tmp_path / "a.bin"),
            stream,
            Image.open(io.BytesIO(content)),
        ):
            assert np.array_equal(load_picture(source), expected)


def test_palettes_grey_with_alpha_and_cmyk() -> None:
    few = (colours() // 64) * 64
    palette = Image.fromarray(few).quantize(colors=256, dither=Image.Dither.NONE)
    assert np.abs(decode(save(palette, "PNG")).astype(int) - few).max() <= 8
    see_through = save(palette, "PNG", transparency=0)
    assert np.array_equal(decode(see_through), decode(save(palette, "PNG")))
    grey = Image.merge("LA", (Image.fromarray(ramp()), Image.fromarray(255 - ramp())))
    assert np.array_equal(decode(save(grey, "PNG"))[..., 1], ramp())
    ink = decode(save(Image.new("CMYK", (3, 2), (0, 255, 255, 0)), "JPEG"))
    assert ink[0, 0, 0] > 200 > 60 > ink[0, 0, 1]


def test_animations_give_their_first_picture() -> None:
    frames = [Image.new("RGB", (4, 3), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    for suffix in ("GIF", "WEBP", "PNG", "TIFF"):
        options = {"lossless": True} if suffix == "WEBP" else {}
        moving = save(frames[0], suffix, save_all=True, append_images=frames[1:], **options)
        assert decode(moving)[0, 0].tolist() == [255, 0, 0], suffix


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_orientations_are_pillows(orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = save(Image.fromarray(colours()), suffix, exif=exif)
    stored = np.asarray(
        Image.open(io.BytesIO(save(Image.fromarray(colours()), suffix))).convert("RGB")
    )
    shown = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB"))
    assert np.array_equal(decode(content), shown)
    header = read_header(content)
    assert (header.stored_wh, header.shown_wh, header.orientation) == (
        (WIDTH, HEIGHT),
        shown.shape[1::-1],
        orientation,
    )
    assert np.array_equal(decode(content, (WIDTH, HEIGHT)), stored)
    if orientation >= 5:
        assert np.array_equal(decode(content, (HEIGHT, WIDTH)), shown)


def turned(orientation: int = 6) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return save(Image.fromarray(colours()), "PNG", exif=exif)


def coco(folder: Path, sizes: list[tuple[int, int]], contents: list[bytes]) -> Path:
    (folder / "val").mkdir(parents=True)
    (folder / "annotations").mkdir()
    document: dict[str, list] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 1, "name": "a"}],
    }
    for number, ((width, height), content) in enumerate(zip(sizes, contents, strict=True), 1):
        (folder / "val" / f"{number}.png").write_bytes(content)
        document["images"].append(
            {"id": number, "file_name": f"{number}.png", "width": width, "height": height}
        )
        box = {"bbox": [1, 1, 5, 5], "area": 25, "iscrowd": 0, "category_id": 1}
        document["annotations"].append({"id": number, "image_id": number, **box})
    (folder / "annotations" / "instances_val.json").write_text(json.dumps(document))
    return folder


def test_a_coco_file_says_by_its_sizes_which_frame_it_means(tmp_path: Path) -> None:
    plain = save(Image.fromarray(colours()), "PNG")
    sizes = [(WIDTH, HEIGHT), (HEIGHT, WIDTH), (WIDTH, HEIGHT)]
    split = read_split(coco(tmp_path / "set", sizes, [turned(), turned(), plain]), "val")
    assert np.array_equal(split.load_image(0), colours())
    assert np.array_equal(split.load_image(1), np.rot90(colours(), -1))
    assert split.rotations() == {"turned": 1, "ignored": 1}
    line = split.rotations_line()
    assert (
        "of 3 pictures 1 are turned" in line
        and "of 3 pictures 1 have an EXIF rotation that is ignored" in line
    )
    assert read_split(coco(tmp_path / "plain", sizes[:1], [plain]), "val").rotations_line() == ""
    wrong = read_split(coco(tmp_path / "wrong", [(7, 9)], [turned()]), "val")
    with pytest.raises(InputError, match="the JSON says 7 x 9"):
        wrong.load_image(0)


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_yolo_labels_are_in_the_frame_that_viewers_show(tmp_path: Path, orientation: int) -> None:
    for part in ("images", "labels"):
        (tmp_path / "val" / part).mkdir(parents=True)
    (tmp_path / "val" / "images" / "1.png").write_bytes(turned(orientation))
    (tmp_path / "val" / "labels" / "1.txt").write_text("0 0.5 0.25 1 0.5\n")
    (tmp_path / "data.yaml").write_text("val: val/images\nnames: [thing]\n")
    split = read_split(tmp_path, "val")
    sample = split.sample(0)
    assert np.array_equal(sample.image, load_picture(tmp_path / "val" / "images" / "1.png"))
    height, width = sample.image.shape[:2]
    assert sample.boxes_xyxy.tolist() == [[0, 0, width, height / 2]]
    assert split.rotations() == {"turned": 1, "ignored": 0}


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_the_exif_of_a_png_may_follow_its_pixels(orientation: int, tmp_path: Path) -> None:
    """The format allows both places, and Pillow reads both."""
    early = turned(orientation)
    start = early.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(early[start : start + 4], "big")
    late = early[:start] + early[end:-12] + early[start:end] + early[-12:]
    shown = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(late))))
    assert np.array_equal(decode(late), shown) and np.array_equal(decode(early), shown)
    assert np.array_equal(decode(Image.open(io.BytesIO(late))), shown)
    assert read_header(late) == read_header(early) and read_header(late).orientation == orientation
    broken = late.replace(b"eXIf", b"eXIg")
    assert np.array_equal(decode(broken), colours())


def test_damaged_exif_says_nothing(tmp_path: Path) -> None:
    content = save(Image.fromarray(colours()), "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")
    assert np.array_equal(decode(content), colours())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the format is unknown"),
        (b"not a picture at all", "the format is unknown"),
        (turned()[:-60], "cannot decode"),
        (save(Image.fromarray(colours()), "JPEG")[:400], "cannot decode"),
        (save(Image.fromarray(colours()), "GIF")[:200], "cannot decode"),
        (save(Image.fromarray(np.full((3, 4), np.nan, np.float32)), "TIFF"), "not finite"),
        (save(Image.fromarray(np.full((3, 4), -1, np.float32)), "TIFF"), "values from -1"),
        (save(Image.fromarray(np.full((3, 4), 70000, np.int32)), "TIFF"), "not 16 bit"),
    ],
)
def test_what_cannot_be_decoded_is_one_clear_line(
    content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / "bad picture.img").write_bytes(content)
    for source in (content, tmp_path / "bad picture.img"):
        with pytest.raises(InputError, match=message) as raised:
            decode(source)
        assert "\n" not in str(raised.value)
    assert "bad picture.img" in str(raised.value)


def test_postscript_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object, **__: object) -> None:
        raise AssertionError("Ghostscript was asked to run the file")

    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", run)
    program = save(Image.fromarray(colours()), "EPS")
    for read in (decode, decode_reduced, read_header):
        with pytest.raises(InputError, match="PostScript"):
            read(program)


def test_libtiff_prints_no_lines_of_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    content = bytearray(save(Image.fromarray(colours()), "TIFF", compression="tiff_adobe_deflate"))
    content[20:40] = bytes(20)
    with pytest.raises(InputError, match="cannot decode"):
        decode(bytes(content))
    assert capfd.readouterr().err == ""


def test_folders_addresses_and_other_things_are_refused(tmp_path: Path) -> None:
    for source, message in (
        (tmp_path, "a folder"),
        ("https://a.org/x.jpg", "download it first"),
        (3, "int"),
        (None, "NoneType"),
    ):
        with pytest.raises(InputError, match=message):
            decode(source)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((4, 5), bool), "bool"),
        (np.zeros((4, 5, 3), np.uint16), "divide by 65535"),
        (np.zeros((4, 5, 3), np.int64), "uint8"),
        (np.full((4, 5, 3), np.nan), "not finite"),
        (np.full((4, 5, 3), 1.01), "0..1"),
        (np.full((4, 5, 3), -0.01, np.float32), "0..1"),
        (np.zeros((3, 4, 5), np.uint8), r"\(H, W, 3\)"),
        (np.zeros((4, 5, 2), np.uint8), r"\(H, W, 3\)"),
        (np.zeros((0, 5, 3), np.uint8), "empty"),
    ],
)
def test_arrays_outside_the_contract_are_refused(values: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        decode_array(values)


def test_arrays_within_the_contract() -> None:
    grey = np.repeat(ramp()[..., None], 3, axis=2)
    rgb = colours()
    assert np.array_equal(decode_array(ramp()), grey) and np.array_equal(
        decode_array(ramp()[..., None]), grey
    )
    assert np.array_equal(decode_array(np.dstack([rgb, ramp()])), rgb)
    for kind in (np.float16, np.float32, np.float64):
        assert np.array_equal(decode_array((rgb / 255).astype(kind)), rgb)
    assert np.array_equal(decode_array(rgb[:, ::-1]), rgb[:, ::-1])


@pytest.mark.parametrize("suffix", ["PNG", "JPEG"])
def test_large_pictures_are_reduced_to_means(suffix: str) -> None:
    smooth = np.asarray(Image.fromarray(colours()).resize((480, 320), Image.Resampling.BICUBIC))
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"quality": 98, "subsampling": 0} if suffix == "JPEG" else {}
    content = save(Image.fromarray(smooth), suffix, exif=exif, **options)
    assert decode_reduced(content, 480 * 320).is_whole
    found = decode_reduced(content, 480 * 320 // 9)
    assert (
        found.size_hw == (480, 320)
        and found.pixels.shape[0] * found.pixels.shape[1] <= 480 * 320 // 9
        and not found.is_whole
    )
    wanted = np.asarray(
        Image.fromarray(np.rot90(smooth, -1)).resize(
            found.pixels.shape[1::-1], Image.Resampling.BOX
        )
    )
    assert np.abs(found.pixels.astype(int) - wanted).mean() < 1.5
    assert reduced(smooth, 480 * 320) is smooth and reduced(smooth, 480 * 320 // 4).shape == (
        160,
        240,
        3,
    )


@pytest.mark.parametrize("mode", ["16 bit PNG", "float 0..1", "L", "RGBA"])
def test_bands_give_what_the_whole_gives(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = MODES[mode][0]()
    whole = decode(content)
    monkeypatch.setattr("rfdetr_repro.data.decoding._BAND", 5 * WIDTH)
    assert np.array_equal(decode(content), whole)


def test_a_picture_beyond_pillows_own_limit_is_read(tmp_path: Path) -> None:
    """14,000 x 14,000 bits: Pillow alone refuses above 179 million pixels."""
    Image.new("1", (14000, 14000), 1).save(tmp_path / "panorama.png")
    found = decode_reduced(tmp_path / "panorama.png", 1 << 20)
    assert (
        found.size_hw == (14000, 14000)
        and found.pixels.shape == (1000, 1000, 3)
        and found.pixels.min() == 255
    )


def test_too_many_pixels_are_refused_before_they_are_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rfdetr_repro.data.decoding.LARGEST", HEIGHT * WIDTH - 1)
    for read in (decode, decode_reduced, read_header):
        with pytest.raises(InputError, match="cut the picture into tiles"):
            read(turned())


def test_a_side_that_no_picture_has_is_refused() -> None:
    """Pillow needs memory for every row: gigabytes for a picture of some hundred bytes."""
    narrow = save(Image.new("1", (1, 1_000_001)), "PNG")
    with pytest.raises(InputError, match="a side of more than 1000000"):
        decode(narrow)


def test_training_prediction_and_the_audit_see_one_picture(tmp_path: Path) -> None:
    """16-bit grey is not white: what training reads is what predict and the float16 audit read."""
    content = save(Image.fromarray(ramp().astype(np.uint16) * 257), "PNG")
    split = read_split(coco(tmp_path / "set", [(WIDTH, HEIGHT)], [content]), "val")
    assert np.array_equal(split.load_image(0), load_picture(content))
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "1.png").write_bytes(content)
    from samples_export import tiny_artifact

    artifact = tiny_artifact(tmp_path)
    (feed,) = feeds_of(artifact.path, tmp_path / "pictures", 1)
    small = (
        np.asarray(
            Image.fromarray(load_picture(content)).resize((32, 32), Image.Resampling.BILINEAR),
            np.float32,
        )
        / 255
    )
    assert np.array_equal(feed["images"][0].transpose(1, 2, 0), small)


def test_the_host_scope_decodes_the_same() -> None:
    assert decode(picture_bytes(None)).shape == (*PICTURE_HW, 3)


def test_the_census_says_how_many_are_turned_and_how_many_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = save(Image.fromarray(colours()), "PNG")
    sizes = [(WIDTH, HEIGHT), (HEIGHT, WIDTH), (WIDTH, HEIGHT), (WIDTH, HEIGHT)]
    split = read_split(coco(tmp_path / "set", sizes, [turned(), turned(), plain, turned(3)]), "val")
    (census,) = print_census([split])
    assert (census.exif_turned, census.exif_ignored) == (1, 2)
    printed = capsys.readouterr().out
    assert "1 picture turned by EXIF" in printed
    assert (
        "2 pictures with an EXIF rotation that is ignored: the stated size is the stored size"
        in printed
    )
