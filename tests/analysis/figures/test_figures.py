from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from analysis.figures import build_figures
from analysis.figures.__main__ import main
from analysis.figures.catalogue import needed_tables
from analysis.store.schema import FEATURES
from analysis.theory.minima import minimum, theorem2_point
from analysis.trials.load import load_results
from tests.analysis.recorded_store import ADAMW, CLASSIFICATION, COLLAPSE, Store, channels

L = 5e-4
SCORES = {
    "positive": [(6.0, 8.0, 5), (8.0, 9.0, 5)],
    "negative": [(-2.0, -1.9, 90)],
    "bias": [(3.0, 3.0, 1), (4.0, 4.0, 1)],
}


def _curve(start: float) -> list[dict[str, float]]:
    names = ("nc1_train", "nc2_train", "nc3_train", "nc2_centered_train")
    return [dict.fromkeys(names, start / epoch) for epoch in (1, 2, 4)]


def _fill_collapse(store: Store) -> None:
    for loss in ("ce", "bce"):
        for seed in (0, 1):
            store.add(COLLAPSE, _curve(1.0 + seed), loss=loss, seed=seed)


def _fill_biases(store: Store, **config: object) -> None:
    """Both rows of Fig. 3, of two values each; they share the trial of lambda_b=0 and b=10."""
    for lambda_b, initial in ((0.0, 0.0), (0.0, 10.0), (0.5, 10.0)):
        biases = {"lambda_b": lambda_b, "bias_init_mean": initial}
        for loss in ("ce", "bce"):
            own = {**COLLAPSE, **config, **biases, "loss": loss}
            store.add(own, _curve(1.0), scores=SCORES)


def _only(figures: Iterator[tuple[str, Figure]]) -> tuple[str, Figure]:
    ((name, figure),) = figures
    return name, figure


def test_fig2_draws_the_mean_over_seeds(store: Store) -> None:
    _fill_collapse(store)
    name, figure = _only(build_figures(load_results(store.root), 2))
    assert name == "fig2_cifar10_resnet18"
    assert len(figure.axes) == 3
    ce, bce = figure.axes[0].get_lines()
    assert np.asarray(ce.get_ydata()) == pytest.approx(
        [1.5, 0.75, 0.375]
    )  # of 1 and 2, over 1, 2, 4
    assert (ce.get_color(), ce.get_marker()) == ("#0072B2", "D")
    assert (bce.get_color(), bce.get_marker()) == ("#D55E00", "o")
    assert figure.axes[0].get_yscale() == "log"
    assert all(tick == int(tick) for tick in figure.axes[0].get_xticks())  # an epoch has no halves
    assert "n=2 seeds" in figure.get_suptitle()


def test_fig2_draws_where_nc2_ends_with_bce(store: Store) -> None:
    _fill_collapse(store)
    _, figure = _only(build_figures(load_results(store.root), 2))
    *_, dashed, dotted = figure.axes[1].get_lines()
    assert dashed.get_linestyle() == "--"
    assert np.asarray(dotted.get_ydata())[0] == pytest.approx(minimum("bce", 10, 12.8, L, L, L).nc2)


@pytest.mark.parametrize(
    "other", [{"imbalance": 20.0}, {"loss_kwargs": '{"pos_weight": 2}'}, {"lambda_h": 0.0}]
)
def test_fig2_draws_no_end_where_none_is_predicted(store: Store, other: dict[str, Any]) -> None:
    store.add({**COLLAPSE, **other}, _curve(1.0), loss="bce")
    _, figure = _only(build_figures(load_results(store.root), 2))
    assert [line.get_linestyle() for line in figure.axes[1].get_lines()] == ["-", "--"]


def test_fig2_has_a_row_per_optimizer_and_counts_missing_trials(store: Store) -> None:
    _fill_collapse(store)
    store.add({**COLLAPSE, **ADAMW}, _curve(1.0))
    store.study("a", {"x": {**COLLAPSE, "seed": 2}})
    _, figure = _only(build_figures(load_results(store.root), 2))
    titles = [ax.get_title() for ax in figure.axes]
    assert [title.split(":")[0] for title in titles] == ["SGD"] * 3 + ["AdamW"] * 3
    assert "n=1 to 2 seeds (1 planned trial not finished)" in figure.get_suptitle()


def test_fig3_draws_theory_and_biases(store: Store) -> None:
    _fill_biases(store)
    name, figure = _only(build_figures(load_results(store.root), 3))
    assert name == "fig3_cifar10_resnet18"
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == ["SGD, CE", "SGD, BCE"] * 2
    decay = figure.axes[3]  # places: lambda_b 0.5, then 0
    assert [tick.get_text() for tick in decay.get_xticklabels()] == ["0.5", "0"]
    drawn = [
        segment[0, 1] for lines in decay.collections for segment in _segments(lines)
    ]  # the height of each horizontal line
    lowest = minimum("bce", 10, 12.8, L, L, 0.5)
    theorem2 = theorem2_point(10, 12.8, L, L, 0.5)
    for value in (lowest.s_pos, lowest.s_neg, lowest.bias, theorem2.s_neg):
        assert min(abs(value - y) for y in drawn) < 1e-12
    assert decay.get_ylim()[1] < theorem2.s_pos
    assert [text.get_text() for text in decay.texts] == [f"{theorem2.s_pos:.0f}"]


def _segments(collection: object) -> list:
    get = getattr(collection, "get_segments", None)
    return [s for s in get() if s[0, 1] == s[1, 1]] if get else []


def test_fig3_ce_without_decay_has_no_predicted_bias(store: Store) -> None:
    _fill_biases(store)
    _, figure = _only(build_figures(load_results(store.root), 3))
    lines = [s for c in figure.axes[0].collections for s in _segments(c)]
    assert len(lines) == 2 * 2  # s_pos and s_neg at two places


def test_networks_of_one_name_get_names_of_their_own(store: Store) -> None:
    _fill_biases(store)
    _fill_biases(store, model_kwargs=channels(8, 16))
    names = [name for name, _ in build_figures(load_results(store.root), 3)]
    assert names == ["fig3_cifar10_resnet18-channels-8-16", "fig3_cifar10_resnet18"]


def test_unconstrained_features_are_in_fig3_alone(store: Store) -> None:
    _fill_biases(store, model="ufm", dataset="labels")
    results = load_results(store.root)
    assert [name for name, _ in build_figures(results, 3)] == ["fig3_labels_ufm"]
    assert not list(build_figures(results, 2))


@pytest.mark.parametrize("fmt", ["png", "svg", "pdf"])
def test_main_prints_each_path_written(
    store: Store, fmt: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _fill_collapse(store)
    assert main(["--results", str(store.root), "--format", fmt]) == 0
    out, err = capsys.readouterr()
    path = store.root / "figures" / f"fig2_cifar10_resnet18.{fmt}"
    assert out.split() == [str(path)]
    assert path.stat().st_size > 1000
    assert "Fig. 3 has no trials" in err


def test_out_and_a_figure_without_trials(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _fill_collapse(store)
    arguments = ["--results", str(store.root), "--out", str(tmp_path / "f"), "--figure"]
    assert main([*arguments, "2"]) == 0
    assert (tmp_path / "f" / "fig2_cifar10_resnet18.png").exists()
    assert main([*arguments, "3"]) == 1
    assert "--study bias_init --study bias_decay" in capsys.readouterr().err


def test_finished_trial_without_scores_is_an_error(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    _fill_biases(store)
    (store.root / "scores" / f"{0:012x}.parquet").unlink()
    assert main(["--results", str(store.root), "--figure", "3"]) == 2
    assert "trial 000000000000 is finished but has no file in scores/" in capsys.readouterr().err


def test_results_at_a_uri_need_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--results", "s3://bucket/results"]) == 2
    assert "name a local folder for figures with --out" in capsys.readouterr().err


def test_unknown_figure(store: Store) -> None:
    _fill_collapse(store)
    with pytest.raises(ValueError, match="figure=5 is unknown"):
        next(build_figures(load_results(store.root), 5))


def _fill_classification(store: Store) -> None:
    """CE's threshold is best at 0.5, where it separates 80 of 100; BCE's at 1."""
    for loss, counts in (("ce", (10, 80, 70)), ("bce", (0, 50, 90))):
        bins = [(0.5 * i, 0.5 * i + 0.0625, count) for i, count in enumerate(counts)]
        for seed in (0, 1):
            metrics = {"accuracy_test": 0.9, "uniform_accuracy_test": counts[-1] / 100 + seed / 100}
            store.add(
                CLASSIFICATION, metrics, scores={"uniform": bins}, loss=loss, seed=seed,
                num_test=100,
            )  # fmt: skip


def test_threshold_figure_draws_a_curve_a_seed_and_its_best(store: Store) -> None:
    _fill_classification(store)
    name, figure = _only(build_figures(load_results(store.root), "threshold"))
    assert name == "threshold_cifar10_resnet18"
    (ax,) = figure.axes
    ce, best, *_ = ax.get_lines()
    assert np.asarray(ce.get_xydata()).tolist() == [[0, 10], [0.5, 80], [1, 70]]
    assert np.asarray(best.get_xydata()).tolist() == [[0.5, 80]]
    bce, best = ax.get_lines()[4:6]
    assert np.asarray(bce.get_xydata()).tolist() == [[0.5, 50], [1, 90]]  # 0 is left out
    assert np.asarray(best.get_xydata()).tolist() == [[1, 90]]


def test_delta_figure_has_the_tables_differences(store: Store) -> None:
    _fill_classification(store)
    _, figure = _only(build_figures(load_results(store.root), "delta"))
    texts = [[text.get_text() for text in ax.texts] for ax in figure.axes]
    assert texts == [["+0.0"], ["+20.0"], ["–"], ["–"]]  # 90 - 70 points; Table 3's are undefined


def test_fig4_maps_the_stored_features(store: Store) -> None:
    rng = np.random.default_rng(0)
    for loss in ("ce", "bce"):
        trial_id = store.add(CLASSIFICATION, {"accuracy_test": 0.9}, loss=loss)
        centres = 10 * rng.normal(size=(3, 8))
        rows = [
            {
                "trial_id": trial_id,
                "sample_index": i,
                "label": i % 3,
                "features": (centres[i % 3] + rng.normal(size=8)).astype(np.float32),
            }
            for i in range(30)
        ]
        store.write("features", trial_id, rows, FEATURES)
    results = load_results(store.root, tables=needed_tables())
    name, figure = _only(build_figures(results, 4))
    assert name == "fig4_cifar10_resnet18"
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == ["SGD, DA1\nCE", "SGD, DA1\nBCE", "", ""]
    assert all(np.shape(ax.collections[0].get_offsets()) == (30, 2) for ax in figure.axes)
    for ax in figure.axes:  # three far apart clusters stay three
        points = np.asarray(ax.collections[0].get_offsets())
        means = np.stack([points[k::3].mean(0) for k in range(3)])
        spread = max(np.linalg.norm(points[k::3] - means[k], axis=1).mean() for k in range(3))
        apart = min(np.linalg.norm(means[a] - means[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
        assert apart > 2 * spread


def test_paper_style_has_no_title(store: Store, tmp_path: Path) -> None:
    _fill_collapse(store)
    argv = ["--results", str(store.root), "--figure", "2", "--format", "svg"]
    for style in ("screen", "paper"):
        assert main([*argv, "--style", style, "--out", str(tmp_path / style)]) == 0
    screen, paper = (
        (tmp_path / style / "fig2_cifar10_resnet18.svg").read_text()
        for style in ("screen", "paper")
    )
    assert "n=2 seeds" in screen
    assert "n=2 seeds" not in paper
    assert "STIXGeneral" in paper
