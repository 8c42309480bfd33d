"""The documentation agrees with the repository: links, file names, commands, cited sections, and
the reference of commands.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import os
import re
import shlex
import sys
import tempfile
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

from rfdetr_repro import cli
from rfdetr_repro.spec.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "rfdetr_repro/weights/README.md"]
)
HAND_WRITTEN = [page for page in PAGES if page.name not in ("CHANGELOG.md",)]
GENERATED = {
    "docs/contributing.md",
    "docs/changelog.md",
    "docs/security.md",
    "docs/reference/commands.md",
}  # by the site's build
MOST_WORDS = 900
SOURCES = [
    path
    for folder in (
        "rfdetr_repro",
        "csrc",
        "tests",
        "benchmarks",
        "reports",
        "campaigns",
    )
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".py", ".h", ".cpp", ".cu", ".cuh", ".toml")
]
METHOD = {
    "architecture facts": "architecture.md",
    "benchmark protocol": "protocol.md",
    "kernel facts": "kernels.md",
}


def tool(name: str) -> ModuleType:
    """A script of docs/tools, imported under its own name."""
    folder = str(ROOT / "docs" / "tools")
    spec = importlib.util.spec_from_file_location(f"docs_tools_{name}", f"{folder}/{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def told(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(text: str) -> str:
    """``text`` without fenced and indented code."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return "\n".join(line for line in text.splitlines() if not line.startswith("    "))


def code(text: str) -> list[str]:
    """The lines of fenced and indented code, continued lines joined, comments taken off."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    unfenced = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    indented = [line for line in unfenced.splitlines() if line.startswith("    ")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join([*fenced, *indented]))
    return [line.strip() for line in joined.splitlines() if line.strip()]


# -- size and links --------------------------------------------------------------------------------


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= MOST_WORDS


def links(text: str) -> list[str]:
    """Targets of links and pictures that are not on the web."""
    targets = re.findall(r"\]\(\s*([^)\s]+)[^)]*\)", prose(text))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading; the site's has no two hyphens in a row."""
    plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def headings(text: str) -> list[str]:
    return re.findall(
        r"^#+ +(.+?) *$",
        re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL),
        flags=re.MULTILINE,
    )


def broken(page: Path, target: str) -> bool:
    path, _, anchor = target.partition("#")
    file = (page.parent / path).resolve() if path else page
    if not file.exists():
        return True
    if not anchor:
        return False
    known = {slug(heading) for heading in headings(file.read_text(encoding="utf-8"))}
    return anchor not in known or "--" in anchor


@pytest.mark.parametrize("page", PAGES, ids=told)
def test_every_link_leads_somewhere(page: Path) -> None:
    found = links(page.read_text(encoding="utf-8"))
    assert [target for target in found if broken(page, target)] == []


def test_a_broken_link_is_found() -> None:
    page = ROOT / "README.md"
    text = (
        "[a](docs/none.md) ![b](docs/pareto.png) [c](https://example.org) "
        "[d](docs/method/protocol.md#99-none)"
    )
    assert [target for target in links(text) if broken(page, target)] == [
        "docs/none.md",
        "docs/method/protocol.md#99-none",
    ]


@pytest.mark.parametrize("name", ["CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_pages_from_elsewhere_link_to_pages_of_the_site(name: str) -> None:
    targets = links((ROOT / name).read_text(encoding="utf-8"))
    assert [one for one in targets if not one.startswith(("docs/", "#"))] == []


def test_every_page_is_in_the_navigation() -> None:
    """The site's build refuses what it cannot find; here the other direction, without mkdocs."""
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    listed = set(re.findall(r": ([\w/]+\.md)$", navigation, flags=re.MULTILINE))
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    assert listed == pages | {page.removeprefix("docs/") for page in GENERATED}


# -- files that are named --------------------------------------------------------------------------


def named_files(text: str) -> set[str]:
    """Paths of this repository in backticks: what begins with one of its folders and has no
    placeholder.
    """
    folders = "|".join(
        sorted(
            path.name
            for path in ROOT.iterdir()
            if path.is_dir() and not path.name.startswith((".", "build"))
        )
    )
    return set(re.findall(rf"`((?:{folders})/(?:[\w./-]*[\w/])?)`", text))


NOT_THERE = re.compile(
    r"^(?:runs/|results/(?:mine|bench|NAME)\b|docs/tools/none)|NAME|SPLIT|labels/|images/"
)


@pytest.mark.parametrize("page", HAND_WRITTEN, ids=told)
def test_every_named_file_exists(page: Path) -> None:
    names = {
        name for name in named_files(page.read_text(encoding="utf-8")) if not NOT_THERE.search(name)
    }
    assert [name for name in sorted(names) if not (ROOT / name).exists()] == []


def test_a_file_that_is_not_there_is_found() -> None:
    text = "see `rfdetr_repro/spec/arch.py`, `tests/no_such_file.py` and `csrc/`"
    assert named_files(text) == {"rfdetr_repro/spec/arch.py", "tests/no_such_file.py", "csrc/"}


# -- commands --------------------------------------------------------------------------------------


@cache
def commands() -> ModuleType:
    return tool("commands")


@cache
def parser_of(module: str) -> argparse.ArgumentParser:
    parser = commands().parser_of(module)
    assert isinstance(parser, argparse.ArgumentParser)
    return parser


def whole_commands(text: str) -> list[list[str]]:
    """Words of every command line that is shown in full, from the module's name on."""
    found = []
    for line in code(text):
        match = re.match(
            r"(?:\w+=\S+ )*(?:(?:python|torchrun [-\w ]*?) ?-m "
            r"((?:rfdetr_repro|reports|benchmarks)[\w.]*)|(rfdetr-repro [a-z][\w-]*))(.*)",
            line,
        )
        if match and "..." not in match[3]:
            found.append([match[1] or match[2], *shlex.split(match[3], comments=True)])
    return found


def make_stand_ins(words: list[str]) -> None:
    """Files and folders here for the placeholders of a command, because programs may refuse paths
    that do not exist.
    """
    after = ""
    for word in words:
        is_result = after in ("--out", "--page", "--json")
        after = word
        if is_result or not re.fullmatch(r"[A-Za-z][\w/.-]*", word):
            continue
        path = Path(word)
        if path.suffix or word == "FILE":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        elif word.isupper() or "/" in word:
            path.mkdir(parents=True, exist_ok=True)


def refused(words: list[str], folder: Path) -> str:
    """Why the program's own parser refuses a command in an empty ``folder``; empty text if the
    parser accepts the command.
    """
    module, *arguments = [
        word.replace("*", "some") for word in words
    ]  # as the shell would put a name there
    place = Path(tempfile.mkdtemp(dir=folder))
    os.chdir(place)
    make_stand_ins(arguments)
    try:
        parser_of(module).parse_args(arguments)
    except ModuleNotFoundError as error:
        return f"{module}: {error}"
    except (SystemExit, InputError, argparse.ArgumentTypeError) as error:
        return f"{shlex.join(words)}: {error}"
    finally:
        os.chdir(folder)
    return ""


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, made the current one; the repository's programs can still be imported."""
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_whole_command_is_accepted_by_its_program(elsewhere: Path) -> None:
    pytest.importorskip(
        "torch", reason="some programs import torch before they read their arguments"
    )
    shown = {
        tuple(words) for page in PAGES for words in whole_commands(page.read_text(encoding="utf-8"))
    }
    assert len(shown) > 30
    assert [why for words in sorted(shown) if (why := refused(list(words), elsewhere))] == []


def test_every_example_of_a_help_is_accepted_by_its_program(elsewhere: Path) -> None:
    shown = [
        words
        for verb in cli.VERBS
        for words in whole_commands(f"    {parser_of(f'rfdetr-repro {verb}').format_help()}")
    ]
    assert {words[0] for words in shown} == {f"rfdetr-repro {verb}" for verb in cli.VERBS}
    assert [why for words in shown if (why := refused(words, elsewhere))] == []


@pytest.mark.parametrize(
    "line",
    [
        "python -m rfdetr_repro.tables --tabel 2",
        "python -m rfdetr_repro.export --checkpoint FILE",
        "python -m rfdetr_repro.no_such_program --data DIR",
        "python -m rfdetr_repro.bench --protocol sometimes",
    ],
)
def test_a_command_that_cannot_run_is_found(elsewhere: Path, line: str) -> None:
    [words] = whole_commands(f"    {line}")
    assert refused(words, elsewhere)


def test_every_option_in_the_text_exists(elsewhere: Path) -> None:
    """Commands inside sentences may leave arguments out; their module and their options must still
    exist.
    """
    pytest.importorskip(
        "torch", reason="some programs import torch before they read their arguments"
    )
    wrong = []
    in_a_sentence = re.compile(
        r"`(?:python\s+-m\s+(?=\w+\.)|(?=rfdetr-repro ))"
        r"((?:rfdetr_repro|reports|benchmarks)[a-z0-9_.]*|"
        r"rfdetr-repro [a-z][a-z0-9-]*)(?=[\s`])([^`]*)`"
    )
    for page in HAND_WRITTEN:
        for module, rest in in_a_sentence.findall(page.read_text(encoding="utf-8")):
            try:
                known = {
                    flag for action in parser_of(module)._actions for flag in action.option_strings
                }
            except (ModuleNotFoundError, InputError):
                wrong.append(f"{told(page)}: {module}")
                continue
            wrong += [
                f"{told(page)}: {module} {flag}"
                for flag in re.findall(r"--[a-z][\w-]*", rest)
                if flag not in known
            ]
    assert wrong == []


def test_the_reference_names_every_option_of_every_command(elsewhere: Path) -> None:
    """One section per program, with each of its options; the programs of the README are among
    them.
    """
    pytest.importorskip(
        "torch", reason="some programs import torch before they read their arguments"
    )
    page = commands().page()
    sections = dict(
        zip(*[iter(re.split(r"^### (.+)$", page, flags=re.MULTILINE)[1:])] * 2, strict=True)
    )
    assert set(sections) == set(cli.VERBS)
    for name, text in sections.items():
        for action in parser_of(f"rfdetr-repro {name}")._actions:
            for flag in action.option_strings:
                assert f"`{flag}`" in text or flag in ("-h", "--help"), f"{name} {flag}"


def test_the_page_of_commands_names_every_command() -> None:
    text = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    assert [name for name in cli.VERBS if not re.search(rf"`rfdetr-repro {name}[ `]", text)] == []


# -- programs in Python ----------------------------------------------------------------------------


def imports(source: str) -> list[tuple[str, str]]:
    """(module, name) of every import from the package."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
    named = [(node.module or "", alias.name) for node in nodes for alias in node.names]
    return [(module, name) for module, name in named if module.startswith("rfdetr_repro")]


def missing_import(module: str, name: str) -> bool:
    try:
        return (
            not hasattr(importlib.import_module(module), name)
            and importlib.util.find_spec(f"{module}.{name}") is None
        )
    except ModuleNotFoundError:
        return True


def test_every_program_in_the_text_compiles_and_imports_what_exists() -> None:
    pytest.importorskip("torch", reason="RFDETR and the operators need torch")
    blocks = [
        (page, block)
        for page in PAGES
        for block in re.findall(
            r"^```python\n(.*?)^```",
            page.read_text(encoding="utf-8"),
            flags=re.MULTILINE | re.DOTALL,
        )
    ]
    found = [(told(page), *item) for page, block in blocks for item in imports(block)]
    assert len(found) > 4
    assert [
        (page, module, name) for page, module, name in found if missing_import(module, name)
    ] == []


def test_a_program_that_imports_nothing_that_exists_is_found() -> None:
    assert [
        missing_import(*item) for item in imports("from rfdetr_repro import Arch, NoSuchName")
    ] == [False, True]
    assert missing_import("rfdetr_repro.no_such_folder", "name")


# -- what comments cite ----------------------------------------------------------------------------


def sections(page: str) -> set[str]:
    text = (ROOT / "docs/method" / page).read_text(encoding="utf-8")
    return {
        match[1]
        for heading in headings(text)
        if (match := re.match(r"(\d+(?:\.\d+)*)\.? ", heading))
    }


def citations(text: str) -> list[tuple[str, str]]:
    """(document, section) of every citation, also of those that a line break or the mark of a
    comment divides.

    "Facts" alone are those of the architecture, and "protocol" alone is the benchmark's.
    """
    flat = re.sub(r"\s*\n[ \t]*(?:#|//|\*|;)?[ \t]*", " ", text)
    found = re.findall(
        r"\b(?:(architecture|kernel) )?facts,? section (\d+)", flat, flags=re.IGNORECASE
    )
    facts = [(f"{name.lower() or 'architecture'} facts", number) for name, number in found]
    return facts + [
        ("benchmark protocol", number)
        for number in re.findall(r"\bprotocol,? section (\d+)", flat, flags=re.IGNORECASE)
    ]


def test_every_cited_section_has_its_heading() -> None:
    cited = [
        (path, *citation)
        for path in SOURCES
        if path != Path(__file__)
        for citation in citations(path.read_text("utf-8"))
    ]
    assert len(cited) > 30
    known = {document: sections(page) for document, page in METHOD.items()}
    assert [
        f"{told(path)}: {name} section {number}"
        for path, name, number in cited
        if number not in known[name]
    ] == []


def test_every_cited_decision_is_in_the_protocol() -> None:
    decisions = set(
        re.findall(
            r"^\| (D\d+) \|",
            (ROOT / "docs/method/protocol.md").read_text(encoding="utf-8"),
            flags=re.MULTILINE,
        )
    )
    cited = {
        number
        for path in SOURCES
        for number in re.findall(r"\bdecision (D\d+)", path.read_text(encoding="utf-8"))
    }
    assert cited <= decisions and "D3" in decisions


def test_a_section_that_is_not_there_is_found() -> None:
    text = (
        "# as in architecture\n# facts section 99, kernel facts section 2 (facts section 6), "
        "benchmark\n# protocol section 3"
    )
    assert citations(text) == [
        ("architecture facts", "99"),
        ("kernel facts", "2"),
        ("architecture facts", "6"),
        ("benchmark protocol", "3"),
    ]
    assert "99" not in sections("architecture.md") and {"1", "15"} <= sections("architecture.md")


@pytest.mark.parametrize("page", METHOD.values())
def test_sections_are_numbered_without_gaps(page: str) -> None:
    assert sections(page) == {str(number) for number in range(1, len(sections(page)) + 1)}


# -- the drawing of the layers ---------------------------------------------------------------------


def test_the_drawing_shows_the_layers_of_the_import_contract() -> None:
    pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
    layers = tool("layers")
    drawn = re.findall(r'class="layer">([^<]+)<', layers.PICTURE.read_text(encoding="utf-8"))
    assert [box.split(" · ") for box in drawn] == layers.layers(), (
        "run: python docs/tools/layers.py"
    )
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    table = page[page.index("| layer | holds |") : page.index("Outside the package")]
    missing = [name for names in layers.layers() for name in names if f"`{name}`" not in table]
    assert missing == [], "add a row to the table of folders in docs/architecture.md"
