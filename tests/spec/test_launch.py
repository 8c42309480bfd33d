"""The command that a Record states."""

from __future__ import annotations

import sys

from rfdetr_repro.spec.launch import command_line


def test_a_shell_reads_the_stated_command_back_word_by_word():
    argv = ["--data", "my data", "--model", "a=b.onnx", "--note", "it's"]
    stated = command_line("python -m rfdetr_repro.bench", argv)
    assert stated == (
        """python -m rfdetr_repro.bench --data 'my data' --model a=b.onnx --note 'it'"'"'s'"""
    )


def test_without_arguments_the_command_has_no_space_at_its_end():
    assert command_line("rfdetr-repro rf100", []) == "rfdetr-repro rf100"


def test_the_arguments_of_the_process_are_stated_from_the_first(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["program", "--model", "rfdetr-pico", "--seeds", "0"])
    stated = command_line("rfdetr-repro train-rival", None)
    assert stated == "rfdetr-repro train-rival --model rfdetr-pico --seeds 0"
