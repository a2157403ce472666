import json

import pytest

from analysis.tables.__main__ import main
from tests.analysis.recorded_store import CLASSIFICATION, Store


def _fill(store: Store) -> None:
    for rotation in (0.0, 15.0):
        for seed in (0, 1):
            metrics = {"accuracy_test": 0.5 + rotation / 100 + seed / 10, "nc1_train": 0.125}
            store.add(CLASSIFICATION, metrics, rotation=rotation, seed=seed)


def test_any_axis_and_metric(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    _fill(store)
    argv = ["--results", str(store.root), "--by", "rotation", "loss"]
    argv += ["--metric", "accuracy_test", "nc1_train", "--format", "json"]
    assert main(argv) == 0
    (table,) = json.loads(capsys.readouterr().out)
    assert table["columns"] == ["rotation", "loss", "accuracy_test", "nc1_train"]
    # 50 and 60: mean 55, sample sd sqrt(50) = 7.07.
    assert table["rows"] == [
        ["0", "ce", "55.00 ± 7.07", "0.1250 ± 0.0000"],
        ["15", "ce", "70.00 ± 7.07", "0.1250 ± 0.0000"],
    ]
    assert table["records"][0]["trial_ids"] == ["000000000000", "000000000001"]


def test_what_is_advised_is_enough_and_no_more(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    for optimizer, lr in (("sgd", 0.1), ("adamw", 0.001)):
        for rotation in (0.0, 15.0):
            config = {**CLASSIFICATION, "optimizer": optimizer, "lr": lr, "rotation": rotation}
            store.add(config, {"accuracy_test": 0.5})
    argv = ["--results", str(store.root), "--metric", "accuracy_test", "--by"]
    assert main([*argv, "loss"]) == 2
    error = capsys.readouterr().err
    assert "differ in optimizer, lr, rotation, which" in error
    assert error.endswith("; use --by loss optimizer rotation\n")
    assert main([*argv, "loss", "optimizer", "rotation"]) == 0


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--by", "loss"], "trials of the row loss=ce differ in rotation, which would be averaged"),
        (
            ["--by", "rotatoin"],
            "--by: 'rotatoin' is not a known field of a trial; did you mean 'rotation'?",
        ),
        (
            ["--by", "seed"],
            "--by: 'seed' is not a known field of a trial",
        ),
        (
            ["--by", "loss", "rotation", "--metric", "nc1"],
            "--metric: 'nc1' is not a known metric; did you mean 'nc1_train' or 'nc1_test'?",
        ),
        (
            ["--by", "loss", "rotation", "--metric", "nope"],
            "--metric: 'nope' is not a known metric (known: ",
        ),
    ],
)
def test_what_cannot_be_averaged_or_is_unknown_is_refused(
    store: Store, capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    _fill(store)
    assert main(["--results", str(store.root), *argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("argv", [["--by", "loss", "--table", "1"], ["--metric", "nc1_train"]])
def test_options_that_contradict(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
