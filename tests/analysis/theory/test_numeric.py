import math
from pathlib import Path

import pytest

from analysis.theory import numeric
from analysis.theory.minima import minimum, theorem2_point
from analysis.theory.numeric import all_samples_minimum, numeric_minimum, report

L = (2e-3, 1e-3, 2e-3)


@pytest.mark.parametrize("loss", ["ce", "bce"])
def test_with_room_it_ends_at_the_formula(loss: str) -> None:
    found = numeric_minimum(loss, 5, 3, *L, 5)
    assert found == pytest.approx(minimum(loss, 5, 3, *L), rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("d", [2, 3, 4])
def test_one_vector_a_class_is_as_low_as_all_samples(d: int) -> None:
    one = numeric_minimum("bce", 5, 3, *L, d).objective
    assert one <= all_samples_minimum("bce", 5, 3, L, d).objective + 1e-8


def test_few_features_are_above_the_formula() -> None:
    lowest = minimum("bce", 5, 3, *L).objective
    assert numeric_minimum("bce", 5, 3, *L, 2).objective > lowest + 1e-3


def test_k_minus_1_features_lie_between() -> None:
    between = numeric_minimum("bce", 5, 3, *L, 4).objective
    assert minimum("bce", 5, 3, *L).objective < between
    assert between <= theorem2_point(5, 3, *L).objective + 1e-9


def test_the_document_prints_what_the_check_prints() -> None:
    page = Path(__file__).parents[3] / "docs" / "theory.md"
    assert report() in page.read_text("utf-8")


def test_a_descent_that_is_not_at_its_end_gives_no_minimum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(numeric._OPTIONS, "maxiter", 3)
    assert all(map(math.isnan, numeric_minimum("bce", 7, 3, *L, 2)))
