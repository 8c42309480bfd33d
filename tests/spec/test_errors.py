"""What is kept of an exception's text, and of a user's."""

from __future__ import annotations

import pytest

from rfdetr_repro.spec.errors import LONGEST_LINE, InputError, first_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("\n  no such layer \nadvice\n"), "no such layer"),
        (RuntimeError(""), "RuntimeError"),
        (OSError(), "OSError"),
        (KeyError("weight"), "'weight'"),
    ],
)
def test_the_first_line_of_an_exception(error: Exception, line: str) -> None:
    assert first_line(error) == line


def test_a_very_long_line_is_shortened() -> None:
    line = first_line(ValueError("x" * 10_000))
    assert len(line) <= LONGEST_LINE and line.startswith("xxx")


def test_a_message_sends_nothing_but_text_to_the_terminal() -> None:
    error = InputError("no class \x1b[2J\0", "a\u202eb\udc80", "write\n\x07caf\xe9")
    assert str(error) == ("no class \\x1b[2J\\x00 (a\\u202eb\\udc80); write \\x07caf\xe9")
