"""The HTML page as a browser finds it: free text as written, headings with anchors, contents,
tables in boxes of their own, and nothing fetched from elsewhere.
"""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest
from samples_run import write_run

from rfdetr_repro.report.blocks import (
    Bullets,
    Document,
    Facts,
    Grid,
    Heading,
    Paragraph,
    Title,
)
from rfdetr_repro.report.content import report
from rfdetr_repro.report.html import write_html
from rfdetr_repro.report.run import read_run
from rfdetr_repro.tables.format import Cell, Column, Table

VOID = {"meta", "img", "br", "hr", "link", "input"}
NAMES = [
    "US$ 5 / CA$ 7 \\frac",
    "<script>alert(1)</script> & <b>",
    "{{ 7 * 7 }} {% raw %}",
    "犬と猫 😀",
    "שלום עולם",
    "a_b % #",
    "n" * 500,
    "two\nlines\x07",
    "half \ud83d letter",
]


class Page(HTMLParser):
    """Texts, tags with their attributes, and whether every tag is closed in order."""

    def __init__(self, text: str):
        super().__init__()
        self.texts: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = write_run(tmp_path_factory.mktemp("run"))
    text = write_html(report(read_run(folder)), folder / "report.html").read_text()
    return Page(text), text


def test_every_tag_is_closed_and_names_are_unique(page):
    parsed, _ = page
    assert parsed.open == []
    names = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(names) == len(set(names)) >= 10


def test_the_contents_list_links_to_every_heading(page):
    parsed, _ = page
    headings = [attributes["id"] for attributes in parsed.all("h2")]
    links = [attributes["href"] for attributes in parsed.all("a")]
    # each once in the contents list and once at the heading itself
    assert sorted(links) == sorted(2 * [f"#{name}" for name in headings])


def test_nothing_is_fetched_from_elsewhere(page):
    parsed, text = page
    for _, attributes in parsed.tags:
        assert str(attributes.get("src", "data:image/png;base64,")).startswith("data:image/png")
        assert str(attributes.get("href", "#")).startswith("#")
    style = text[text.index("<style>") : text.index("</style>")]
    assert not re.search(r"https?:|@import|url\(", style)
    assert all(image["alt"] for image in parsed.all("img"))


def test_only_the_page_s_own_program_may_run(page):
    """By its digest; other scripts, and every request, are forbidden by the page itself."""
    parsed, text = page
    policy = next(
        each["content"] for each in parsed.all("meta") if "http-equiv" in each and each["content"]
    )
    program = text[text.rindex("<script>") + len("<script>") : text.rindex("</script>")]
    digest = base64.b64encode(hashlib.sha256(program.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy and policy.startswith("default-src 'none'")
    data = {"type": "application/json", "id": "explorer-data"}
    assert parsed.all("script") == [data, {}]


def test_tables_scroll_in_boxes_and_name_their_columns(page):
    parsed, text = page
    boxes = [each for each in parsed.all("div") if each.get("class") == "box"]
    assert len(boxes) == len(parsed.all("table")) >= 5
    assert all(box["tabindex"] == "0" and box["aria-label"] for box in boxes)
    style = text[text.index("<style>") : text.index("</style>")]
    assert ".box {\n  overflow-x: auto" in style
    assert "prefers-color-scheme: dark" in style and "@media print" in style
    assert 'name="viewport" content="width=device-width' in text


def everywhere(name: str) -> Document:
    table = Table("t", name, [Column("a", name, name, right=False)], notes=[name])
    table.add({"a": Cell(name)}, name)
    blocks = [
        Title(name, name),
        Heading(name),
        Paragraph(name),
        Paragraph(name, strong=True),
        Bullets([name]),
        Facts([(name, name)]),
        Grid(table),
    ]
    return Document(name, name, blocks)


@pytest.mark.parametrize("name", NAMES)
def test_free_text_is_shown_as_written(name, tmp_path):
    """Python's HTML parser reads the name back."""
    text = write_html(everywhere(name), tmp_path / "report.html").read_text()
    parsed = Page(text)
    tags = {tag for tag, _ in parsed.tags}
    assert parsed.all("script") == [{}] and "b" not in tags and "\x07" not in text
    shown = name.replace("\x07", "").replace("\ud83d", "")
    one_line = " ".join(shown.split("\n"))
    found = [each.strip() for each in parsed.texts]
    assert sum(each in (shown, one_line) for each in found) >= 13


def test_equal_headings_have_names_of_their_own(tmp_path):
    blocks = [Heading("Training"), Heading("Training"), Heading("שלום"), Heading("犬")]
    parsed = Page(write_html(Document("t", "f", blocks), tmp_path / "r.html").read_text())
    assert [each["id"] for each in parsed.all("h2")] == [
        "training",
        "training-2",
        "section",
        "section-2",
    ]


def test_sections_and_groups_span_their_rows_and_columns(tmp_path):
    columns = [Column("a", "a"), Column("b", "b", "two"), Column("c", "c", "two")]
    table = Table("t", "t", columns)
    for section in ("first", "first", "second"):
        table.add({"a": Cell("1")}, section)
    document = Document("t", "f", [Grid(table)])
    parsed = Page(write_html(document, tmp_path / "r.html").read_text())
    spans = [each["colspan"] for each in parsed.all("th") if "colspan" in each]
    assert spans == ["1", "2", "3", "3"]
    assert len(parsed.all("tr")) == 2 + 2 + 3
