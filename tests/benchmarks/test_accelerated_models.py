"""The study of accelerated models: what it calls a difference."""

from __future__ import annotations

import torch

from benchmarks.studies.accelerated_models import floats, largest_difference


def test_outputs_are_compared_by_their_largest_value() -> None:
    expected = floats({"logits": torch.tensor([[8.0, -4.0]]), "count": torch.tensor([1])})
    found = floats({"logits": torch.tensor([[8.0, -4.5]]), "count": torch.tensor([2])})
    assert list(expected) == ["logits"]
    assert largest_difference(found, expected) == "6e-02"  # 0.5 of 8
    assert largest_difference({"0": torch.tensor([0.3])}, {"0": torch.tensor([0.1])}) == "2e-01"


def test_queries_that_moved_are_counted_and_not_compared() -> None:
    points = torch.tensor([[[0.1, 0.1], [0.5, 0.5], [0.9, 0.9]]])
    other_points = points.clone()
    other_points[0, 1] = 0.2
    logits = torch.zeros(1, 3, 4)
    other_logits = logits.clone()
    other_logits[0, 1] = 1.0
    other_logits[0, 2] = 1e-6
    expected = {"logits": logits, "init_reference_points": points}
    found = {"logits": other_logits, "init_reference_points": other_points}
    assert largest_difference(found, expected) == "1e-06 (1 of 3 queries moved)"
    assert largest_difference({**found, "init_reference_points": points}, expected) == "1e+00"


def test_values_that_are_not_finite_are_left_out() -> None:
    expected = {"logits": torch.tensor([[1.0, -torch.inf]])}
    assert largest_difference({"logits": torch.tensor([[1.5, -torch.inf]])}, expected) == "5e-01"
    assert largest_difference({"logits": torch.tensor([[torch.nan, 0.0]])}, expected) == "nan"
