"""Which texts are names: those of any script, and nothing that breaks a line."""

from __future__ import annotations

import pytest

from rfdetr_repro.spec.ranges import check_classes, is_text


@pytest.mark.parametrize(
    "name",
    [
        "car",
        "می\u200cخودرو",  # Persian, with the joiner that its spelling needs
        "क\u094d\u200dष",  # Hindi
        "traffic\u00a0light",  # an unbreakable space
        "\u200fרכב",  # a mark of direction
        "👩\u200d🚒",
        "\U0001faea",  # an emoji that older versions of Unicode do not know
    ],
)
def test_names_of_any_script_are_texts(name: str) -> None:
    assert is_text(name)
    check_classes([name], [1])


@pytest.mark.parametrize(
    "name",
    ["", " \u00a0", "\u200b", "two\nlines", "a\u2028b", "\x1b[2J", "a\0b", "\ud800", 7, None],
)
def test_blank_texts_and_control_characters_are_no_names(name: object) -> None:
    assert not is_text(name)
