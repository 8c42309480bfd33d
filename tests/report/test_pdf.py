"""The PDF as a reader finds it: text, outline, links and fonts by pypdf, equal bytes for an equal
document, and nothing outside the text area.
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime, timezone

import pytest
from pypdf import PdfReader
from samples_intervals import three
from samples_run import protocol_record, write_run

from rfdetr_repro.plots.style import drawable
from rfdetr_repro.report.blocks import (
    MOST_POINTS,
    Bullets,
    Document,
    Drawing,
    Facts,
    Grid,
    Heading,
    Paragraph,
    Picture,
    Title,
)
from rfdetr_repro.report.build import build_report
from rfdetr_repro.report.pages import BOTTOM, MARGIN, Pages, needs_shaping
from rfdetr_repro.report.pdf import write_pdf
from rfdetr_repro.report.pdf_table import fit, natural_widths, parts
from rfdetr_repro.spec.arch import Arch
from rfdetr_repro.tables.campaign import frontier_tables
from rfdetr_repro.tables.format import Cell, Column, Table

WIDTH, HEIGHT = 595.28, 841.89


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def built(run):
    return PdfReader(build_report(run))


def written(tmp_path, *blocks, **changes) -> PdfReader:
    document = Document("a title", "a footer", list(blocks), **changes)
    return PdfReader(write_pdf(document, tmp_path / "report.pdf"))


def places(page):
    """(x, y, text) of every piece of text of a page, y from its foot."""
    found = []

    def visit(text, page, line, font, size):
        a, b, c, d, e, f = page
        x, y = line[4:]
        if text.strip():
            found.append((a * x + c * y + e, b * x + d * y + f, text.strip()))

    page.extract_text(visitor_text=visit)
    return found


def words_of(reader) -> str:
    return " ".join(" ".join(page.extract_text() for page in reader.pages).split())


def spaceless(text: str) -> str:
    return re.sub(r"\s+", "", text)


def test_every_page_says_that_the_ap_is_synthetic_and_its_number(built):
    assert len(built.pages) >= 5
    for number, page in enumerate(built.pages, 1):
        text = page.extract_text()
        assert "it is not COCO AP" in text and f"{number} / {len(built.pages)}" in text


def test_the_outline_names_sections_and_tables_in_order(built):
    tops = [entry.title for entry in built.outline if not isinstance(entry, list)]
    assert tops[0] == "Headline" and "Accuracy and latency" in tops and len(set(tops)) == len(tops)
    pages = [built.get_destination_page_number(e) for e in built.outline if not isinstance(e, list)]
    assert pages == sorted(pages) and pages[-1] > 2
    below = [entry.title for part in built.outline if isinstance(part, list) for entry in part]
    assert any(title.startswith("Table 2. COCO detection") for title in below)


def test_the_contents_on_the_first_page_are_links_to_the_headings(built):
    links = [annotation.get_object() for annotation in built.pages[0]["/Annots"]]
    tops = [entry for entry in built.outline if not isinstance(entry, list)]
    targets = [built.get_page_number(link["/Dest"][0].get_object()) for link in links]
    assert targets == [built.get_destination_page_number(entry) for entry in tops]


def test_fonts_are_embedded_and_text_is_text(built):
    fonts = {}
    for page in built.pages:
        for font in page["/Resources"]["/Font"].values():
            fonts[font["/BaseFont"]] = font
    for font in fonts.values():
        (descendant,) = font["/DescendantFonts"]
        assert "/FontFile2" in descendant.get_object()["/FontDescriptor"]
        assert "/ToUnicode" in font
    # of a figure: its axis too
    assert "synthetic AP, %" in words_of(built)


def test_no_text_lies_outside_the_margins(built):
    for page in built.pages:
        assert page.mediabox.width == pytest.approx(WIDTH, abs=0.1)
        for x, y, text in places(page):
            assert MARGIN - 20 <= x <= WIDTH - MARGIN + 1, text
            assert 25 <= y <= HEIGHT - MARGIN + 30, text


def test_the_date_is_the_document_s_and_the_bytes_follow_from_the_document(tmp_path):
    date = datetime(2025, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
    blocks = [Title("t"), Heading("h"), Paragraph("text"), Grid(table_of(3))]
    first = written(tmp_path, *blocks, date=date)
    assert first.metadata.creation_date == date and first.metadata.title == "a title"
    content = (tmp_path / "report.pdf").read_bytes()
    written(tmp_path, *blocks, date=date)
    assert (tmp_path / "report.pdf").read_bytes() == content
    written(tmp_path, *blocks)
    dateless = (tmp_path / "report.pdf").read_bytes()
    written(tmp_path, *blocks)
    assert (tmp_path / "report.pdf").read_bytes() == dateless != content


def table_of(rows: int, text: str = "row") -> Table:
    columns = [Column("a", "the head", right=False), Column("b", "number")]
    table = Table("t", "Long", columns)
    for number in range(rows):
        table.add({"a": Cell(f"{text} {number}"), "b": Cell(str(number))})
    return table


def test_long_tables_repeat_their_head_on_the_next_page_and_lose_no_row(tmp_path):
    reader = written(tmp_path, Grid(table_of(200)))
    assert len(reader.pages) > 2
    assert all("head number" in page.extract_text() for page in reader.pages)
    text = words_of(reader)
    assert all(f"row {number} " in text for number in range(200))
    for page in reader.pages:
        low = min(y for _, y, text in places(page) if text.startswith("row"))
        assert low > BOTTOM - 5


def test_a_table_fits_the_page_or_wraps():
    pages = Pages()
    columns = [Column(str(index), f"column {index}", right=False) for index in range(6)]
    table = Table("t", "t", columns)
    table.add({str(index): Cell("some text " * (40 if index == 3 else 1)) for index in range(6)})
    size, widths = fit(natural_widths(pages, table), pages.epw)
    assert sum(widths) <= pages.epw + 1e-6 and size >= 5.5
    # the long column gives way, the short ones keep their widths
    assert widths[3] == max(widths) and widths[0] == pytest.approx(widths[5])


def test_a_table_of_very_many_wide_columns_is_still_printed(tmp_path):
    columns = [Column(str(index), "head" * 5) for index in range(40)]
    table = Table("t", "t", columns)
    table.add({str(index): Cell("x" * 300) for index in range(40)})
    reader = written(tmp_path, Grid(table))
    assert spaceless(words_of(reader)).count("x") >= 40 * 40


def test_a_table_too_wide_for_the_page_is_cut_between_its_groups():
    pages = Pages()
    arch = Arch(128, 16, 1, 2, 25)
    (table,) = frontier_tables([*three(), protocol_record(arch, "test")])
    table.columns = [replace(column, label=column.label + " wide") for column in table.columns]
    natural = natural_widths(pages, table)
    pieces = parts(table, 420.0, natural)
    assert len(pieces) > 1
    lead = [column.key for column in table.columns if not column.group]
    assert all([column.key for column in piece.columns][: len(lead)] == lead for piece in pieces)
    assert [column.key for piece in pieces for column in piece.columns[len(lead) :]] == [
        column.key for column in table.columns if column.group
    ]
    assert [bool(piece.notes) for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert parts(table, 10_000.0, natural) == [table]


def test_long_words_and_long_values_are_wrapped_and_kept(tmp_path):
    word = "".join("iWm.l"[(7 * place * place) % 5] for place in range(6_000))
    reader = written(
        tmp_path, Paragraph(f"before {word} after"), Bullets([word]), Facts([("name", word)])
    )
    text = spaceless(words_of(reader))
    text = re.sub(r"\d+/\d+afooter", "", text)
    assert text.count(word) == 3
    for page in reader.pages:
        assert max(x for x, _, _ in places(page)) < WIDTH - MARGIN


def test_a_heading_stays_with_what_follows_and_a_caption_with_its_picture(run, tmp_path):
    picture = Picture(run / "predictions" / "val_000.png", "the caption")
    for filling in range(30, 42, 2):
        blocks = [Paragraph("filling " * 8)] * filling
        reader = written(tmp_path, *blocks, Heading("the heading"), picture)
        with_heading = [
            n for n, page in enumerate(reader.pages) if "the heading" in page.extract_text()
        ]
        with_caption = [
            n for n, page in enumerate(reader.pages) if "the caption" in page.extract_text()
        ]
        with_picture = [n for n, page in enumerate(reader.pages) if page.images]
        assert with_heading[-1:] == with_caption == with_picture


@pytest.mark.parametrize(
    "name",
    [
        "犬と猫 😀",
        "שלום עולם",
        "مرحبا بالعالم",
        "Ελληνικά, кириллица, ŝanĝo",
        "e\u0301a\u0308 combining",
        "<script>alert(1)</script> & <b>",
        "US$ 5 / CA$ 7 \\frac **bold** __x__",
        "n" * 500,
    ],
)
def test_any_letters_can_be_printed_everywhere(name, tmp_path):
    table = Table("t", name, [Column("a", name, name, right=False)], notes=[name])
    table.add({"a": Cell(name)}, name)

    def draw(figure):
        figure.text(0.1, 0.5, drawable(name[:40]))

    reader = written(
        tmp_path,
        Title(name, name),
        Heading(name),
        Paragraph(name),
        Bullets([name]),
        Facts([(name, name)]),
        Grid(table),
        Drawing(draw, 1.0, name),
    )
    text = words_of(reader)
    if name.isascii():
        assert spaceless(text).count(spaceless(name)) >= 7
    for page in reader.pages:
        assert max(x for x, _, _ in places(page)) < WIDTH - MARGIN


def test_letters_that_no_font_has_are_told_by_number(tmp_path):
    reader = written(tmp_path, Paragraph("private \ue000 letter"))
    assert "private <U+E000> letter" in words_of(reader)


def test_text_from_right_to_left_is_set_from_right_to_left(tmp_path):
    """Of two letters the first stands at the right: the widths of the pieces tell it."""
    assert needs_shaping("שלום") and not needs_shaping("犬 café")
    pages = Pages()
    with pages.script("של"):
        assert pages.text_shaping is not None
    assert pages.text_shaping is None


def test_a_drawing_of_very_many_points_becomes_a_picture(tmp_path):
    def draw(figure, count=MOST_POINTS + 1):
        axes = figure.subplots()
        axes.scatter(range(count), range(count))

    reader = written(tmp_path, Drawing(draw, 2.0, "points"))
    assert len(reader.pages[0].images) == 1


def test_a_drawing_is_clipped_to_its_axes(tmp_path):
    """Markers outside the axes are not seen: the page's drawing operators hold a clipping path for
    each of the groups that matplotlib clips.
    """

    def draw(figure):
        axes = figure.subplots()
        axes.plot([0, 100], [0, 100], marker="o")
        axes.set(xlim=(0, 1), ylim=(0, 1))

    reader = written(tmp_path, Drawing(draw, 2.0, "clipped"))
    operators = (
        [operator for _, operator in reader.pages[0].get_contents().operations]
        if hasattr(reader.pages[0].get_contents(), "operations")
        else []
    )
    assert operators.count(b"W") + operators.count(b"W*") >= 2


@pytest.mark.parametrize("above", range(40, 60))
def test_a_page_break_leaves_no_single_fact_behind(tmp_path, above):
    """However much stands above a list of facts, the last page holds several or all of them."""
    pairs = [(f"name {number}", f"value {number}") for number in range(12)]
    reader = written(tmp_path, Bullets([f"line {number}" for number in range(above)]), Facts(pairs))
    on_last = reader.pages[-1].extract_text().count("value")
    assert on_last >= 4
