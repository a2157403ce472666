import math

from analysis.paper.published import Published
from analysis.tables.entries import (
    BLANK,
    Entry,
    Quantity,
    assemble,
    published_delta,
    published_entry,
)

ACCURACY = Quantity("accuracy", "A", "accuracy_test", 2, percent=True)


def test_n_stands_in_the_cells_only_where_it_differs() -> None:
    same = assemble("t", "T", ("x", "y", "z"), [(("a",), [Entry("1", 2), Entry("2", 2)])], [])
    assert same.rows == (("a", "1", "2"),)
    assert same.notes == (
        "mean ± sample standard deviation (ddof=1) over n seeds, n=2 in every cell",
    )
    other = assemble("t", "T", ("x", "y", "z"), [(("a",), [Entry("1", 2), Entry("2", 1)])], [])
    assert other.rows == (("a", "1 (n=2)", "2 (n=1)"),)
    assert other.notes[0].endswith("n stated in each cell")


def test_a_single_seed_has_no_spread_to_state() -> None:
    table = assemble("t", "T", ("x", "y"), [(("a",), [Entry("1", 1)])], ["more"])
    assert table.notes == ("n=1: one seed each, so there is no spread over seeds", "more")


def test_a_note_stands_once_and_many_are_cut() -> None:
    entries = [Entry("–", note=f"note {i // 2}") for i in range(100)]
    notes = assemble("t", "T", ("x",), [((), [entry]) for entry in entries], []).notes
    assert notes[:2] == ("note 0", "note 1")
    assert len(notes) == 41
    assert notes[-1] == "and 10 more cells with a dash; --format json lists them"


def test_published_entry_and_its_difference() -> None:
    identity = {"loss": "ce"}
    ours = Entry("x", mean=0.93)
    value = Published(0.9282, math.nan)
    assert published_entry(value, ACCURACY, identity).text == "92.82"
    assert published_entry(value, ACCURACY, identity, ours=ours).text == "92.82 (+0.18)"
    assert published_entry(value, ACCURACY, identity, ours=Entry("–")).text == "92.82"
    assert published_entry(None, ACCURACY, identity) is BLANK


def test_published_delta_needs_both() -> None:
    ce, bce = Published(0.5, math.nan), Published(0.75, math.nan)
    difference = published_delta(ce, bce)
    assert difference is not None
    assert difference.mean == 0.25
    assert published_delta(None, bce) is None
