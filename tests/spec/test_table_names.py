"""Table numbers of both versions of the paper."""

from __future__ import annotations

import pytest

from rfdetr_repro.spec.errors import InputError
from rfdetr_repro.tables import command as tables
from rfdetr_repro.tables.published import paper_table


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("2", "2"),
        ("v1_2", "2"),
        ("v2_2", "2"),
        ("Table 2", "2"),
        ("17", "17"),
        ("18", "17"),
        ("v2_18", "17"),
        ("v2 17", "v2_17"),
        ("19", "v2_19"),
        ("20", "v2_20"),
        ("v2-20", "v2_20"),
        ("ALL", "all"),
    ],
)
def test_numbers_of_both_versions_are_understood(text, name):
    assert tables.table_name(text) == name


@pytest.mark.parametrize("text", ["21", "0", "v2_21", "v3_2", "v1_19", "", "2.5", "../2"])
def test_a_number_of_no_version_lists_what_there_is(text):
    with pytest.raises(
        InputError,
        match="choose one of 1, 2, .*v2_20, frontier, sensitivity, rivals, parts, rf100, all",
    ):
        tables.table_name(text)


def test_titles_say_which_numbering():
    assert paper_table("17").title.startswith(
        "Table 17 (version 1 numbering; Table 18 of the camera-ready)."
    )
    assert paper_table("v2_17").title.startswith("Table 17 of the camera-ready (not in version 1).")
    assert paper_table("2").title.startswith("Table 2. COCO")
