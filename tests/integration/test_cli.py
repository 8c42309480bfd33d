"""The program ``rfdetr-repro``: its verbs, their help, completion, and what loads when."""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rfdetr_repro import __version__, cli
from rfdetr_repro.spec import logs
from rfdetr_repro.spec.arguments import ArgumentParser
from rfdetr_repro.spec.errors import InputError, run_main

ROOT = Path(__file__).resolve().parents[2]
# what makes a program slow to start; NumPy, which some arguments need, loads in 0.1 s
SLOW = ("torch", "onnx", "onnxruntime", "matplotlib", "scipy.special", "scipy.stats", "ray")
PARSERS = f"""
import sys
from rfdetr_repro.cli import VERBS, program_of
for verb in VERBS:
    program_of(verb).parser().format_help()
    loaded = [name for name in {SLOW!r} if name in sys.modules]
    if loaded:
        sys.exit(f"{{verb}} loads {{', '.join(loaded)}} for its help")
"""


def parser_of(verb: str) -> argparse.ArgumentParser:
    return cli.program_of(verb).parser()


def run(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rfdetr_repro", *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **env},
        check=False,
    )


def test_the_overview_lists_every_verb_in_its_group(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    for title, verbs in cli.GROUPS.items():
        part = shown[shown.index(f"\n{title}:") :].split("\n\n")[0]
        assert all(f"  {name} " in part and verb.text in part for name, verb in verbs.items())
    assert max(map(len, shown.splitlines())) <= 100
    assert cli.main([]) == 2 and capsys.readouterr() == ("", shown)


def test_version_and_unknown_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        cli.main(["--version"]) == 0 and capsys.readouterr().out == f"rfdetr-repro {__version__}\n"
    )
    for word, near in (("trian", "train"), ("evalute", "evaluate"), ("fp16_audit", "fp16-audit")):
        assert cli.main([word]) == 2
        told = capsys.readouterr().err
        assert told.count("\n") == 1 and told.startswith(f"error: unknown verb '{word}'")
        assert f"did you mean {near}?" in told
    assert cli.main(["--quiet", "tables"]) == 2
    assert capsys.readouterr().err == (
        "error: --quiet before the verb; write rfdetr-repro VERB --quiet\n"
    )
    assert cli.main(["qqqq"]) == 2 and "did you mean" not in capsys.readouterr().err


@pytest.mark.parametrize("verb", cli.VERBS)
def test_the_help_of_a_verb(verb: str) -> None:
    parser = parser_of(verb)
    assert isinstance(parser, ArgumentParser)
    shown = parser.format_help()
    assert shown.startswith(f"usage: rfdetr-repro {verb} ")
    assert parser.description and parser.description[0].isupper() and parser.description[-1] == "."
    assert parser.examples and shown.index("messages:") < shown.index("Examples:\n    rfdetr-repro")
    for action in parser._actions:
        name = action.option_strings or action.dest
        assert action.help, f"{name} has no help"
        if isinstance(action.default, (int, float)) and not isinstance(action.default, bool):
            assert "default" in parser._get_formatter()._expand_help(action), name


@pytest.mark.parametrize("verb", cli.VERBS)
def test_the_module_of_a_verb_runs_the_same_program(verb: str) -> None:
    known = cli.VERBS[verb]
    if not known.also:
        pytest.skip("this verb has no name of its own for python -m")
    spec = importlib.util.find_spec(known.also)
    assert spec is not None
    of_a_folder = spec.submodule_search_locations is not None
    file = importlib.util.find_spec(f"{known.also}.__main__").origin if of_a_folder else spec.origin
    text = Path(str(file)).read_text(encoding="utf-8")
    assert f'Program("{known.module}")' in text or known.also == known.module


def test_no_help_loads_what_is_slow() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PARSERS], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr


def test_help_and_errors_name_the_program_as_it_was_called() -> None:
    for words, name in (
        (["rfdetr_repro", "seal"], "rfdetr-repro seal"),
        (["rfdetr_repro.seal"], "python -m rfdetr_repro.seal"),
    ):
        called = [sys.executable, "-m", *words]
        shown = subprocess.run([*called, "--help"], capture_output=True, text=True, cwd=ROOT)
        assert shown.returncode == 0 and f"usage: {name} [-h]" in " ".join(shown.stdout.split())
        refused = subprocess.run(called, capture_output=True, text=True, cwd=ROOT)
        assert refused.returncode == 2 and refused.stderr == (
            f"error: the following arguments are required: STORE.jsonl; {name} --help lists the "
            f"arguments\n"
        )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--seed", "x"], "'x' is no seed (--seed); LIST"),
        (["--seed"], "expected one argument (--seed); LIST"),
        (
            ["--to", "onx"],
            "invalid choice: 'onx' (--to); did you mean onnx? choose one of onnx, torch",
        ),
        (["--sed", "1"], "unrecognized arguments: --sed 1; did you mean --seed?"),
        (["-q", "-v"], "not allowed with argument -q/--quiet (-v/--verbose); LIST"),
    ],
)
def test_an_error_of_an_argument_names_the_flag_and_a_hint(words: list[str], told: str) -> None:
    def seed(text: str) -> int:
        if not text.isdigit():
            raise argparse.ArgumentTypeError(f"{text!r} is no seed")
        return int(text)

    parser = ArgumentParser("rfdetr-repro x")
    parser.add_argument("--seed", type=seed)
    parser.add_argument("--to", choices=("onnx", "torch"))
    with pytest.raises(InputError) as caught:
        parser.parse_args(words)
    assert str(caught.value) == told.replace("LIST", "rfdetr-repro x --help lists the arguments")


def test_quiet_and_verbose_end_with_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    def main(argv: object) -> None:
        ArgumentParser("rfdetr_repro.x").parse_args(argv)
        log = logs.LOGGER.getChild("room.module")
        log.info("told")
        log.warning("warned")
        log.debug("decided")
        print("result")

    for words, out, err in (
        ([], "told\nresult\n", "warned\n"),
        (["--quiet"], "result\n", "warned\n"),
        (["-v"], "told\nresult\n", "warned\n[room.module] decided\n"),
        ([], "told\nresult\n", "warned\n"),
    ):
        assert run_main(main, words) == 0
        assert capsys.readouterr() == (out, err)


# -- completion ------------------------------------------------------------------------------------


def completed(line: str) -> list[str]:
    """What Tab offers at the end of a line, as bash asks for it."""
    script = 'exec 8>&1 >/dev/null 2>&1; exec "$0" -m rfdetr_repro.cli'
    asked = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_SUPPRESS_SPACE": "1", "_ARGCOMPLETE_IFS": "\n"}
    done = subprocess.run(
        ["bash", "-c", script, sys.executable],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **asked, "COMP_LINE": line, "COMP_POINT": str(len(line))},
        check=False,
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("rfdetr-repro pse", ["pseudo-masks"]),
        ("rfdetr-repro tables --for", ["--format"]),
        ("rfdetr-repro completion --quiet f", ["fish"]),
    ],
)
def test_tab_offers_verbs_arguments_and_choices(line: str, offered: list[str]) -> None:
    pytest.importorskip("argcomplete", reason="argcomplete is not installed here")
    assert completed(line) == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_names_the_program(shell: str) -> None:
    pytest.importorskip("argcomplete", reason="argcomplete is not installed here")
    done = run("completion", shell)
    assert done.returncode == 0 and "rfdetr-repro" in done.stdout


def test_completion_without_argcomplete_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "argcomplete", None)
    assert cli.main(["completion", "bash"]) == 2
