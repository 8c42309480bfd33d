"""The explorer: a reader can use it with the pointer, the keyboard, a phone, on paper and without a
program, and hostile names and odd runs are shown.
"""

from __future__ import annotations

import random
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from chromium import Tab
from samples_explorer import ARCHS, HOSTILE, LIST, answers, choose, measured, written
from samples_run import protocol_record, search_record, sha, write_run

from rfdetr_repro.paper.published import published_records
from rfdetr_repro.records.record import DataId, Machine, Record
from rfdetr_repro.report.content import report
from rfdetr_repro.report.html import write_html
from rfdetr_repro.report.run import read_run


def test_tables_of_the_report_sort_within_their_sections(tab: Tab, tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    tab.open(write_html(report(read_run(folder)), tmp_path / "report.html"))
    tables = "document.querySelectorAll('main > .table table')"
    cells = (
        f"Array.from({tables}, (table) => {{"
        "const heads = [...table.querySelectorAll('thead tr:last-child th')];"
        "const column = heads.findIndex((head) => head.textContent.trim() === 'AP');"
        "const button = heads[column]?.querySelector('button'); if (!button) return null;"
        "button.click();"
        "return [...table.tBodies[0].rows].map((row) => row.cells[column]?.textContent ?? null);"
        "}).filter(Boolean)"
    )
    found = tab.run(cells)
    assert found and not tab.faults
    for column in found:
        for section in "\n".join("|" if one is None else one for one in column).split("|"):
            numbers = [float(one) for one in section.split() if re.fullmatch(r"[\d.]+", one)]
            assert numbers == sorted(numbers)


def test_a_point_is_reached_by_keys_and_leads_to_its_record(tab: Tab, page: Path) -> None:
    records = {record.id: record for record in measured()}
    tab.open(page, "#explore:x=buffered.median")
    tab.run("document.querySelector('[data-part=plot]').focus()")
    tip = "document.querySelector('[data-part=tip]')"
    fastest = tab.run(f"{tip}.querySelector('b').textContent")
    tab.press("ArrowRight", "ArrowRight", "ArrowLeft")
    second = tab.run(f"{tip}.querySelector('b').textContent")
    said = tab.run("document.querySelector('[data-part=said]').textContent")
    assert said.startswith(second)
    tab.press("Home")
    assert tab.run(f"{tip}.querySelector('b').textContent") == fastest
    tab.press("End", "Enter")
    opened = tab.run("document.activeElement.getAttribute('aria-label')")
    record = records[opened.removeprefix("Record ")]
    slowest = max(
        (one for one in records.values() if on_first_axis(one)),
        key=lambda one: one.as_latency().ms,
    )
    assert record.as_latency().ms == slowest.as_latency().ms
    assert tab.run("location.hash").endswith(f"record={record.id}")
    fields = tab.run(
        "Object.fromEntries(Array.from(document.querySelectorAll('#record > div'),"
        " (line) => [line.children[0].textContent, line.children[1].textContent]))"
    )
    assert fields["id"] == record.id and fields["source"] == record.source
    assert float(fields["latency.median_ms"]) == record.as_latency().ms
    tab.run("document.querySelector('[data-part=plot]').focus()")
    tab.press("Escape")
    assert tab.run(f"{tip}.hidden")


def on_first_axis(record: Record) -> bool:
    if record.data is None or record.data.split != "val":
        return False
    return record.protocol is not None and record.protocol.mode == "buffered"


# the name in the tip; "" where there is none
TIP = "(document.querySelector('[data-part=tip]:not([hidden]) b')?.textContent ?? '')"
PLOT = (
    "(({left, top, width, height}) => [left, top, width, height])"
    "(document.querySelector('[data-part=plot]').getBoundingClientRect())"
)


def place_of_a_point(tab: Tab) -> tuple[float, float]:
    """Where the pointer meets a point, found by looking."""
    tab.run("document.querySelector('[data-part=plot]').scrollIntoView()")
    left, top, width, height = tab.run(PLOT)
    for step in range(400):
        x = left + width * (0.1 + 0.85 * (step % 20) / 20)
        y = top + height * (0.1 + 0.8 * (step // 20) / 20)
        tab.mouse(x, y)
        if tab.state(TIP):
            return x, y
    raise AssertionError("no point was met")


def test_the_pointer_meets_a_point_and_a_click_opens_its_record(tab: Tab, page: Path) -> None:
    names = {record.id: record.model.arch for record in measured()}
    tab.open(page, "#explore:x=buffered.median")
    place = place_of_a_point(tab)
    name = tab.state(TIP)
    tab.mouse(*place, click=True)
    opened = tab.run("document.activeElement.getAttribute('aria-label')")
    arch = names[opened.removeprefix("Record ")]
    assert arch is not None and arch.key == name
    # closing it by the keyboard leaves the focus at its name
    tab.run("document.querySelector('[data-part=list] tr.opened a').focus()")
    tab.press("Enter")
    tab.run("1")
    assert not tab.run("document.querySelector('#record')")
    assert tab.run("document.activeElement.textContent") == name


def test_a_finger_sees_a_point_first_and_opens_it_by_a_second_tap(tab: Tab, page: Path) -> None:
    tab.look(390, phone=True)
    try:
        tab.open(page, "#explore:x=buffered.median")
        place = place_of_a_point(tab)
        tab.run("document.querySelector('[data-part=plot]').blur()")
        tab.tap(*place)
        assert tab.run(TIP) and not tab.run("document.querySelector('#record')")
        tab.tap(*place)
        assert tab.run("Boolean(document.querySelector('#record'))")
    finally:
        tab.look(1200)


def test_every_control_is_reached_by_tab_and_has_a_name(tab: Tab, page: Path) -> None:
    tab.open(page, "#explore:")
    wanted = tab.run(
        "(() => { const all = [...document.querySelectorAll('#explore :is(button, select, input,"
        " summary, .plot)')].filter((one) => !one.disabled && one.checkVisibility());"
        " all.forEach((one, place) => { one.dataset.place = place; }); return all.length; })()"
    )
    reached = set()
    tab.run("document.querySelector('.theme').focus()")
    for _ in range(3 * wanted):
        tab.press("Tab")
        reached.add(tab.run("document.activeElement.dataset.place ?? ''"))
    assert reached >= {str(place) for place in range(wanted)}
    unnamed = tab.run(
        "[...document.querySelectorAll('button, select, input, [role=application]')].filter((one)"
        " => !(one.getAttribute('aria-label') || one.closest('label') || one.labels?.length ||"
        " one.textContent.trim())).map((one) => one.outerHTML)"
    )
    assert unnamed == []


def test_the_address_holds_the_view(tab: Tab, page: Path) -> None:
    tab.open(page, "#explore:")
    choose(tab, x="sustained.median", y="mask_ap", budget=4.5, data="embedded test")
    place = tab.run("location.hash")
    before = answers(tab)
    rows = tab.run(f"Array.from({LIST}, (row) => row.dataset.record)")
    tab.open(page, place)
    assert answers(tab) == before
    assert tab.run(f"Array.from({LIST}, (row) => row.dataset.record)") == rows
    tab.open(page, "#explore:x=nothing&y=&budget=-1&page=999&record=none&data=%00&sort=what")
    assert not tab.faults and answers(tab)


def test_nothing_is_asked_of_the_network(tab: Tab, page: Path) -> None:
    tab.open(page, "#explore:")
    choose(tab, budget=5)
    assert tab.requests == [page.as_uri()] and not tab.faults
    refused = "fetch('https://example.org/').then(() => 'sent', () => 'refused')"
    assert tab.run(refused) == "refused"
    assert "Content Security Policy" in " ".join(tab.faults)


def test_hostile_names_are_text(tab: Tab, tmp_path: Path) -> None:
    records = [
        replace(
            record,
            model=replace(record.model, arch=None, name=HOSTILE),
            data=DataId(HOSTILE, "val", sha("data"), 5),
            machine=Machine(HOSTILE, 1, 1.0, HOSTILE),
            command="犬 \ud83d \x07 {{ 7 * 7 }}",
        )
        for record in map(protocol_record, ARCHS[:3])
    ]
    tab.open(written(tmp_path, records, HOSTILE), f"#explore:record={records[0].id}&budget=99")
    assert tab.run("[window.broken ?? 0, document.querySelectorAll('img').length]") == [0, 0]
    assert HOSTILE in answers(tab)[0]["words"]
    assert shlex.split(answers(tab)[0]["command"])[2] == HOSTILE
    assert not tab.faults


CONTRAST = """(() => {
  const parse = (words) => words.match(/[\\d.]+/g).map(Number);
  const light = (rgb) => rgb.slice(0, 3).map((part) => part / 255).map((part) =>
    part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
    .reduce((sum, part, place) => sum + part * [0.2126, 0.7152, 0.0722][place], 0);
  const behind = (node) => {
    for (let one = node; one; one = one.parentElement) {
      const colour = parse(getComputedStyle(one).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const bad = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    if (!own || !node.checkVisibility() || node.disabled) continue;
    const [a, b] = [light(parse(getComputedStyle(node).color)), light(behind(node))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) bad.push([node.outerHTML.slice(0, 80), ratio]);
  }
  return bad;
})()"""


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1200, 390])
def test_text_has_contrast_and_a_phone_does_not_scroll_sideways(
    width: int, dark: bool, tab: Tab, page: Path
) -> None:
    tab.look(width, dark=dark, phone=width < 500)
    try:
        first = measured()[-1].id
        tab.open(page, f"#explore:record={first}")
        assert tab.run(CONTRAST) == []
        assert tab.run("document.documentElement.scrollWidth") == width
        tall = tab.run(
            "[...document.querySelectorAll('#explore select, .ask input')]"
            ".filter((one) => one.checkVisibility() && one.offsetHeight < 24).length"
        )
        assert tall == 0
    finally:
        tab.look(1200)


def test_the_reader_chooses_the_theme(tab: Tab, page: Path) -> None:
    tab.open(page)
    paper = "getComputedStyle(document.body).backgroundColor"
    before = tab.run(paper)
    for theme in ("light", "dark", "auto"):
        tab.run("document.querySelector('.theme').click()")
        assert tab.run("document.querySelector('.theme').textContent") == f"Theme: {theme}"
        assert (tab.run(paper) == before) == (theme != "dark")


def test_on_paper_and_without_a_program_the_static_picture_stays(tab: Tab, tmp_path: Path) -> None:
    place = written(tmp_path, measured(), static=True)
    visible = (
        "['.static', '#explore', '.theme'].map((name) => "
        "document.querySelector(name)?.checkVisibility() ?? false)"
    )
    tab.open(place)
    assert tab.run(visible) == [False, True, True]
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    tab.ask("Emulation.setEmulatedMedia", media="print", features=dark)
    assert tab.run(visible) == [True, False, False]
    paper = "getComputedStyle(document.body).backgroundColor"
    assert tab.run(paper) == "rgb(255, 255, 255)"
    tab.ask("Emulation.setEmulatedMedia", media="", features=[])
    tab.ask("Emulation.setScriptExecutionDisabled", value=True)
    try:
        tab.open(place)
        assert tab.state(visible) == [True, False, False]
    finally:
        tab.ask("Emulation.setScriptExecutionDisabled", value=False)


def odd() -> dict[str, list[Record]]:
    one = protocol_record(ARCHS[0])
    assert one.latency and one.accuracy
    bare = replace(one.latency, ci_low_ms=None, ci_high_ms=None, p90_ms=None, images_per_s=None)
    return {
        "one point": [one],
        "the same twice": [one, replace(one, campaign="again")],
        "nothing of all that may be absent": [
            replace(one, latency=bare, machine=None, cost=None, mask_accuracy=None, env={})
        ],
        "no data set": [replace(one, data=None)],
        "AP 0": [replace(one, accuracy=replace(one.accuracy, ap=0.0))],
        "no latency": [replace(search_record(arch), latency=None) for arch in ARCHS[:5]],
        "published only": published_records(),
        "masks only": [replace(search_record(arch), accuracy=None) for arch in ARCHS[:5]],
        "modelled only": [search_record(arch) for arch in ARCHS],
    }


@pytest.mark.parametrize("name", odd())
def test_odd_runs_are_shown_without_a_fault(name: str, tab: Tab, tmp_path: Path) -> None:
    records = odd()[name]
    tab.open(written(tmp_path, records), "#explore:")
    assert not tab.faults
    assert tab.run("document.querySelector('#explore').checkVisibility()")
    for axis in ("x", "y"):
        values = tab.run(
            f"[...document.querySelector('[data-state={axis}]').options].map((one) => one.value)"
        )
        for value in values:
            choose(tab, **{axis: value})
            assert not tab.faults, (axis, value)
    count = tab.run("document.querySelector('[data-part=count]').textContent")
    assert re.fullmatch(r"\d+ to \d+ of [\d,]+", count) and "NaN" not in tab.run(
        "document.querySelector('#explore').textContent"
    )


def test_twenty_thousand_records_are_one_page_below_ten_megabytes(tab: Tab, tmp_path: Path) -> None:
    source = random.Random(0)
    records = []
    while len(records) < 20_000:
        for record in map(search_record, ARCHS):
            latency = replace(record.latency, median_ms=source.uniform(2, 30))
            accuracy = replace(
                record.accuracy, ap=source.random(), ap_low=None, ap50=source.random()
            )
            model = replace(record.model, checkpoint_sha256=sha(str(len(records) // 4000)))
            records.append(replace(record, latency=latency, accuracy=accuracy, model=model))
    records = records[:20_000]
    page = written(tmp_path, records)
    assert page.stat().st_size < 10_000_000
    tab.open(page, "#explore:budget=15")
    assert tab.run("document.querySelector('[data-part=count]').textContent").endswith("of 20,000")
    best = max(
        (one for one in records if one.as_latency().ms <= 15),
        key=lambda one: one.as_accuracy().ap,
    )
    assert answers(tab)[0]["id"] == best.id
    choose(tab, slider=300)
    assert not tab.faults


# What the page computes, against Python's own
