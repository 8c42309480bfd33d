"""The explorer: what the page holds equals the Records, what it names equals Python's own choice,
and a reader can use it with the pointer, the keyboard, a phone, on paper and without a program.
"""

from __future__ import annotations

import json
import random
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chromium import Tab, chromium
from samples_run import SPACE, protocol_record, run_records, search_record, sha, write_run

from rfdetr_repro.paper.published import published_records
from rfdetr_repro.records.frames import flat
from rfdetr_repro.records.pareto import frontier
from rfdetr_repro.records.record import DataId, Machine, Record
from rfdetr_repro.report.blocks import Document, Drawing, Explorer, Title
from rfdetr_repro.report.content import report
from rfdetr_repro.report.explorer.data import explorer_json
from rfdetr_repro.report.html import write_html
from rfdetr_repro.report.run import read_run
from rfdetr_repro.search.budget import Budget
from rfdetr_repro.search.pick import best_within, considered
from rfdetr_repro.search.pick_command import parser
from rfdetr_repro.spec.errors import StatedFailure
from rfdetr_repro.spec.metrics import decimals

HOSTILE = "</script><script>window.broken = 1</script><img src=x onerror='window.broken = 2'>"
SOURCES = Path(__file__).parents[2] / "rfdetr_repro" / "report" / "explorer"
ARCHS = list(SPACE)
LIST = "document.querySelectorAll('[data-part=list] tr[data-record]')"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with chromium(tmp_path_factory.mktemp("profile")) as opened:
        opened.look(1200)
        yield opened


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run of which many files were measured, in two modes, by one protocol."""
    return written(tmp_path_factory.mktemp("page"), measured())


def measured() -> list[Record]:
    return [
        *map(search_record, ARCHS),
        *(
            protocol_record(arch, split, mode)
            for arch in ARCHS[::3]
            for split in ("val", "test")
            for mode in ("buffered", "sustained")
        ),
    ]


def written(
    folder: Path, records: list[Record], run: str | None = "runs/mine", *, static: bool = False
) -> Path:
    picture = Drawing(lambda figure: figure.text(0.1, 0.5, "static"), 1.0, "still")
    explorer = Explorer(records, run, picture if static else None)
    return write_html(Document("t", "f", [Title("t"), explorer]), folder / "page.html")


def data_of(page: Path) -> Any:
    text = page.read_text()
    return json.loads(re.search(r'id="explorer-data">(.*?)</script>', text, re.S)[1])  # type: ignore[index]


def decoded(data: Any, path: str) -> list[Any]:
    """As the docstring of data.py states it."""
    column = data["columns"].get(path, {"at": [], "values": []})
    if isinstance(column, list):
        return column
    if "same" in column:
        return [column["same"]] * data["count"]
    if "words" in column:
        return [None if code < 0 else column["words"][code] for code in column["codes"]]
    values: list[Any] = [None] * data["count"]
    for place, value in zip(column["at"], column["values"], strict=True):
        values[place] = value
    return values


def test_every_number_of_the_page_equals_that_of_the_record(tmp_path: Path) -> None:
    records = [*measured(), *published_records()]
    data = data_of(written(tmp_path, records))
    found = {path: decoded(data, path) for path in data["columns"]}
    for place, record in enumerate(records):
        fields = {path: value for path, value in flat(record).items() if path != "unverified"}
        held = {
            path: values[place]
            for path, values in found.items()
            if values[place] is not None and not path.startswith("shown.")
        }
        assert held == fields


def test_a_name_cannot_end_the_script_that_holds_it() -> None:
    record = replace(protocol_record(ARCHS[0]), command=HOSTILE)
    text = explorer_json([record], HOSTILE)
    assert "<" not in text and ">" not in text and text.isascii()
    assert json.loads(text)["columns"]["command"] == {"same": HOSTILE}
    assert shlex.split(json.loads(text)["run"]) == [HOSTILE]


def test_of_a_run_the_page_holds_its_records_and_published_ones_on_the_same_images(
    tmp_path: Path,
) -> None:
    folder = write_run(tmp_path)
    blocks = report(read_run(folder)).blocks
    (found,) = [block for block in blocks if isinstance(block, Explorer)]
    assert list(found.records) == run_records() and found.run == str(folder)
    assert found.static is not None
    on_coco = replace(protocol_record(ARCHS[0]), data=DataId("coco-val2017", "val"))
    store = tmp_path / "other.jsonl"
    store.write_text(on_coco.to_json() + "\n")
    (found,) = [
        block for block in report(read_run(folder, store)).blocks if isinstance(block, Explorer)
    ]
    assert found.run is None  # the folder's own Records are others
    names = {record.data.name for record in found.records if record.data}
    assert names == {"coco-val2017"} and len(found.records) > 100


# In the browser


def choose(tab: Tab, **choices: Any) -> None:
    """Changes controls as a reader does."""
    for key, value in choices.items():
        tab.run(
            f"(() => {{ const control = document.querySelector({json.dumps(key_of(key))});"
            f"control.value = {json.dumps(str(value))};"
            f"control.dispatchEvent(new Event('input', {{bubbles: true}}));"
            f"control.dispatchEvent(new Event('change', {{bubbles: true}})); }})()"
        )


def key_of(name: str) -> str:
    parts = {"budget": '[data-part="budget"]', "slider": '[data-part="slider"]'}
    return parts.get(name, f'[data-state="{name}"]')


def answers(tab: Tab) -> list[dict[str, Any]]:
    return tab.run(
        "Array.from(document.querySelectorAll('.answer'), (card) => ({id: card.dataset.record,"
        " fits: !card.classList.contains('none'), words: card.textContent,"
        " command: card.querySelector('code')?.textContent ?? ''}))"
    )


@pytest.mark.parametrize(
    ("mode", "quantile", "metric"),
    [
        ("buffered", "median", "ap"),
        ("sustained", "median", "ap50"),
        ("buffered", "p90", "mask_ap"),
    ],
)
def test_the_slider_names_what_pick_chooses(
    mode: str, quantile: str, metric: str, tab: Tab, page: Path
) -> None:
    records = measured()
    tab.open(page, "#explore:")
    choose(tab, x=f"{mode}.{quantile}", y=metric)
    found = set()
    for place in range(0, 1001, 125):
        choose(tab, slider=place)
        ms = float(tab.run("document.querySelector('[data-part=budget]').value"))
        budget = Budget(ms, quantile, mode, metric)
        (first, *_) = answers(tab)
        try:
            chosen = best_within(considered(records, budget), budget).record
        except StatedFailure as failure:
            assert not first["fits"] and not first["command"]
            assert re.search(r"nearest is (\S+)", str(failure))[1] in first["words"]  # type: ignore[index]
            continue
        assert (first["id"], first["fits"]) == (chosen.id, True)
        words = shlex.split(first["command"])
        assert words[:2] == ["rfdetr-repro", "pick"]
        read = parser().parse_args([".", *words[3:]])  # the folder itself is elsewhere
        assert words[2] == "runs/mine" and read.budget_ms == ms
        assert (read.mode, read.quantile or "median", read.metric) == (mode, quantile, metric)
        found.add(chosen.id)
    assert len(found) >= 3 and not tab.faults


def test_a_typed_budget_is_the_budget_to_the_last_digit(tab: Tab, page: Path) -> None:
    """A ceiling that equals a latency admits the file; the next smaller number does not."""
    records = measured()
    budget = Budget(1000.0)
    best = best_within(considered(records, budget), budget)
    tab.open(page, "#explore:x=buffered.median")
    choose(tab, budget=best.latency.median_ms)
    assert answers(tab)[0]["id"] == best.record.id
    choose(tab, budget=best.latency.median_ms - 1e-9)
    below = answers(tab)
    assert below[0]["id"] != best.record.id
    for wrong in ("", "0", "-3", "1e6", "1e999"):  # pick refuses them too
        choose(tab, budget=wrong)
        assert answers(tab) == below


def test_of_equals_the_faster_then_the_first(tab: Tab, tmp_path: Path) -> None:
    first, second, third = map(protocol_record, ARCHS[:3])
    assert first.latency and first.accuracy
    times = (5.0, 4.0, 4.0)
    records = [
        replace(
            record,
            accuracy=replace(record.accuracy, ap=0.25),
            latency=replace(record.latency, median_ms=ms, ci_low_ms=None, ci_high_ms=None),
        )
        for record, ms in zip((first, second, third), times, strict=True)
    ]
    budget = Budget(6.0)
    tab.open(written(tmp_path, records), "#explore:budget=6")
    chosen = best_within(considered(records, budget), budget).record
    assert answers(tab)[0]["id"] == chosen.id == records[1].id


def test_machines_and_data_sets_have_answers_of_their_own(tab: Tab, tmp_path: Path) -> None:
    other = Machine("Other CPU", 4, 8.0, "Linux")
    records = [protocol_record(arch) for arch in ARCHS[:6]]
    records += [replace(protocol_record(arch), machine=other) for arch in ARCHS[:9]]
    tab.open(written(tmp_path, records), "#explore:budget=50")
    found = answers(tab)
    assert len(found) == 2 and not any(one["command"] for one in found)  # pick refuses both
    assert "9 comparable" in found[0]["words"] and "6 comparable" in found[1]["words"]
    choose(tab, machine="Other CPU")
    assert len(answers(tab)) == 1 and tab.run(f"{LIST}.length") == 9


def test_a_front_of_throughput_may_join_batches(tab: Tab, tmp_path: Path) -> None:
    records = []
    for number, arch in enumerate(ARCHS[:12]):
        record = protocol_record(arch, mode="sustained")
        protocol = replace(record.protocol, batch=1 if number % 2 else 8)
        latency = replace(record.latency, images_per_s=100.0 + 7 * (number * 5 % 12))
        records.append(replace(record, protocol=protocol, latency=latency))
    tab.open(written(tmp_path, records), "#explore:x=throughput&front=1")
    assert sorted(shown(tab)) == sorted(one.id for one in frontier(records, "throughput"))
    assert not any("pick" in one["command"] for one in answers(tab) if "batch 8" in one["words"])


def test_a_page_opens_with_what_it_is_about(tab: Tab, tmp_path: Path) -> None:
    records = [*measured(), *published_records()]
    for first, words in ((False, "embedded val"), (True, "coco-val2017 val")):
        explorer = Explorer(records, published_first=first)
        page = write_html(Document("t", "f", [Title("t"), explorer]), tmp_path / "page.html")
        tab.open(page, "#explore:")
        assert tab.run("document.querySelector('[data-state=data]').value") == words
        assert words in answers(tab)[0]["words"]


def test_data_sets_of_one_name_are_not_compared(tab: Tab, tmp_path: Path) -> None:
    def renewed(record: Record) -> Record:
        return replace(record, data=DataId("embedded", "val", "f" * 64, 300))

    records = [protocol_record(arch) for arch in ARCHS[:8]]
    records += [renewed(protocol_record(arch)) for arch in ARCHS[4:8]]
    tab.open(written(tmp_path, records), "#explore:budget=50")
    found = answers(tab)
    assert len(found) == 2 and not any(one["command"] for one in found)


def shown(tab: Tab) -> list[str]:
    """Ids of the list, over all its pages."""
    found = []
    while True:
        found += tab.run(f"Array.from({LIST}, (row) => row.dataset.record)")
        more = "document.querySelector('[data-step=\"1\"]')"
        if tab.run(f"{more}.parentElement.hidden || {more}.disabled"):
            return found
        tab.run(f"{more}.click()")


def test_fronts_are_those_of_python_within_one_checkpoint_and_machine(
    tab: Tab, tmp_path: Path
) -> None:
    def other(record: Record) -> Record:
        return replace(record, model=replace(record.model, checkpoint_sha256=sha("other")))

    records = [protocol_record(arch) for arch in ARCHS]
    groups = [records[:40], [other(record) for record in records[30:]]]
    tab.open(written(tmp_path, [*groups[0], *groups[1]]), "#explore:front=1")
    expected = [record.id for group in groups for record in frontier(group)]
    assert sorted(shown(tab)) == sorted(expected)
    assert len(expected) > len(frontier(records))  # one pooled front would have been shorter


def test_filters_leave_what_they_say(tab: Tab, page: Path) -> None:
    records = measured()
    tab.open(page, "#explore:x=buffered.median&data=embedded+test")
    wanted = [
        record
        for record in records
        if record.data and record.data.split == "test" and record.protocol
        if record.protocol.mode == "buffered"
    ]
    assert sorted(shown(tab)) == sorted(record.id for record in wanted)
    choose(tab, search=ARCHS[0].key)
    assert shown(tab) == [one.id for one in wanted if one.model.arch == ARCHS[0]]
    tab.open(page, "#explore:x=sustained.median&origins=modelled")
    assert len(shown(tab)) == len([one for one in records if one.source == "search"])


def test_the_list_sorts_numbers_as_numbers_and_absent_ones_last(tab: Tab, page: Path) -> None:
    records = {record.id: record for record in measured()}
    tab.open(page, "#explore:")
    heads = "document.querySelectorAll('[data-part=list] th button')"
    for column in ("x", "params"):
        head = f"document.querySelector('[data-part=list] th[data-key={column}] button')"
        for direction in ("descending", "ascending"):
            tab.run(f"{head}.click()")
            assert tab.run(f"{head}.parentElement.getAttribute('aria-sort')") == direction
            tab.run("document.querySelector('[data-step=\"-1\"]').click()")
            ordered = [records[one] for one in shown(tab)]
            values = [value_of(record, column) for record in ordered]
            present = [value for value in values if value is not None]
            assert present == sorted(present, reverse=direction == "descending")
            assert values[: len(present)] == present
    assert tab.run(f"{heads}.length") >= 6


def value_of(record: Record, column: str) -> float | None:
    if column == "params":
        return record.cost.params if record.cost else None
    return record.latency.median_ms if record.latency else None


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


def computed(tab: Tab, expression: str) -> Any:
    source = (SOURCES / "data.js").read_text()
    return tab.run(f"(() => {{ {source}\nreturn {expression}; }})()")


def test_numbers_are_rounded_as_in_python(tab: Tab) -> None:
    source = random.Random(1)
    values = [0.0, 0.05, 0.15, 0.25, 1.005, 47.25, 2.675, 99.95, 99.94999, 1e-9, 123456.5]
    values += [round(source.uniform(0, 100), source.randint(1, 6)) for _ in range(500)]
    tab.open(SOURCES / "explorer.html")
    for digits in (0, 1, 2):
        wanted = [decimals(value, digits) for value in values]
        assert computed(tab, f"{values}.map((value) => decimals(value, {digits}))") == wanted


@pytest.mark.parametrize("seed", range(5))
def test_a_front_is_that_of_python(seed: int, tab: Tab) -> None:
    """With many ties: coordinates from few numbers."""
    source = random.Random(seed)
    records = []
    for number in range(60):
        record = protocol_record(ARCHS[number % len(ARCHS)])
        latency = replace(
            record.latency, median_ms=float(source.randint(1, 12)), ci_low_ms=None, ci_high_ms=None
        )
        accuracy = replace(record.accuracy, ap=source.randint(0, 12) / 16)
        records.append(replace(record, latency=latency, accuracy=accuracy, seed=number))
    points = [
        {"record": place, "x": one.as_latency().ms, "y": one.as_accuracy().ap}
        for place, one in enumerate(records)
    ]
    tab.open(SOURCES / "explorer.html")
    found = computed(tab, f"paretoFront({json.dumps(points)}, {{}}).map((one) => one.record)")
    assert [records[place].seed for place in found] == [one.seed for one in frontier(records)]
