"""accumulator.py: merging, invariances, missing data, modes of torch, and refusals."""

import math
import pickle
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analysis.store.schema import BIAS_METRICS, SPLIT_METRICS, WEIGHT_METRICS
from trainers.metrics.accumulator import Accumulator

NAMES = {metric.name for metric in (*SPLIT_METRICS, *WEIGHT_METRICS, *BIAS_METRICS)}
NEED_EVERY_CLASS = {
    *("nc1", "nc3", "nc2_means", "cdnv", "cos_within", "cos_between", "cos_means"),
    *("compactness", "distinctiveness"),
}
shared_fixtures = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def test_names_are_those_of_the_schema(draw, accumulate):
    assert set(accumulate(draw(3, 4)).compute()) == NAMES


@shared_fixtures
@given(cuts=st.lists(st.integers(0, 60), max_size=4), seed=st.integers(0, 99), data=st.data())
def test_merging_parts_in_any_order_equals_at_once(draw, accumulate, cuts, seed, data):
    sample = draw(4, 3, seed=seed, spread=1e-3)
    means = torch.tensor(sample.weight)
    edges = [0, *sorted(cuts), 60]
    parts = []
    for a, b in pairwise(edges):
        part = Accumulator(4, 3, class_means=means)
        h, y, W, bias = sample.tensors()
        part.update(h[a:b], y[a:b], W, bias)
        parts.append(part)
    parts = data.draw(st.permutations(parts))
    for other in parts[1:]:
        parts[0].merge(other)
    whole = accumulate(sample, class_means=means)
    assert parts[0].num_samples == whole.num_samples == 60
    assert parts[0].compute() == pytest.approx(whole.compute(), rel=1e-10, abs=1e-12, nan_ok=True)


@shared_fixtures
@given(seed=st.integers(0, 999), chunk=st.integers(1, 60))
def test_nothing_but_names_and_angles_of_the_frame_change(draw, accumulate, seed, chunk):
    """Permuting samples, renaming classes and rotating features with W change no metric."""
    sample = draw(4, 5, seed=seed)
    sample = sample._replace(
        features=sample.features.astype(float), weight=sample.weight.astype(float)
    )
    before = accumulate(sample, class_means=torch.tensor(sample.weight)).compute()
    rng = np.random.default_rng(seed)
    order, names = rng.permutation(60), rng.permutation(4)
    rotation = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    rows = np.argsort(names)
    weight = sample.weight[rows] @ rotation
    moved = type(sample)(
        (sample.features @ rotation)[order], names[sample.labels][order], weight, sample.bias[rows]
    )
    after = accumulate(moved, chunk, class_means=torch.tensor(weight)).compute()
    assert after == pytest.approx(before, rel=1e-9, abs=1e-11)


def test_float32_features_are_summed_in_float64(draw, accumulate):
    sample = draw(3, 4)
    double = type(sample)(*(a.astype(np.float64) if a.dtype == np.float32 else a for a in sample))
    single, both = accumulate(sample, 7).compute(), accumulate(double, 7).compute()
    assert single == pytest.approx(both, rel=0, abs=0, nan_ok=True)


def test_a_missing_class_is_nan_where_its_mean_is_needed(draw, accumulate):
    sample = draw(4, 5)
    present = sample.labels != 2
    sample = sample._replace(features=sample.features[present], labels=sample.labels[present])
    accumulator = accumulate(sample, 7)
    metrics = accumulator.compute()
    assert {name for name in metrics if math.isnan(metrics[name])} == NEED_EVERY_CLASS | {"nc4"}
    assert torch.isnan(accumulator.class_means).any(1).tolist() == [False, False, True, False]
    features = sample.features.astype(np.float64)
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    means = np.stack([features[sample.labels == k].mean(0) for k in sample.labels])
    cosines = (units * means).sum(1) / np.linalg.norm(means, axis=1)
    assert metrics["cos_to_mean"] == pytest.approx(cosines.mean(), rel=1e-9)


def test_one_sample(draw, accumulate):
    sample = draw(3, 4)
    one = sample._replace(features=sample.features[:1], labels=sample.labels[:1])
    metrics = accumulate(one).compute()
    assert metrics["accuracy"] in (0, 1)
    assert metrics["s_pos_std"] == 0
    assert math.isnan(metrics["nc1"])


def test_nan_features_spoil_moments_but_not_the_other_samples_accuracy(draw, accumulate):
    sample = draw(3, 4)
    clean = accumulate(sample._replace(features=sample.features[1:], labels=sample.labels[1:]))
    sample.features[0] = np.nan
    means = torch.tensor(sample.weight)
    metrics = accumulate(sample, 7, class_means=means).compute()
    assert metrics["accuracy"] == pytest.approx(clean.compute()["accuracy"] * 59 / 60)
    assert math.isnan(metrics["nc1"])
    assert math.isnan(metrics["s_pos_mean"])
    assert 0 <= metrics["nc4"] <= 1
    assert math.isfinite(metrics["nc2"])


def test_an_empty_batch_adds_nothing(draw, accumulate):
    sample = draw(3, 4)
    accumulator = accumulate(sample)
    before = accumulator.compute()
    h, y, W, b = sample.tensors()
    accumulator.update(h[:0], y[:0], W, b)
    assert accumulator.compute() == pytest.approx(before, rel=0, nan_ok=True)


def test_a_worker_without_samples_can_merge_both_ways(draw, accumulate):
    sample = draw(3, 4)
    for first, second in [
        (accumulate(sample), Accumulator(3, 4)),
        (Accumulator(3, 4), accumulate(sample)),
    ]:
        first.merge(second)
        assert first.compute() == pytest.approx(
            accumulate(sample).compute(), rel=1e-14, nan_ok=True
        )


@pytest.mark.parametrize("built_inside", [False, True])
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_modes_of_torch_change_nothing(draw, accumulate, mode, built_inside):
    sample = draw(3, 4)
    h, y, W, b = sample.tensors()
    accumulator = Accumulator(3, 4)
    with mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        if built_inside:
            accumulator = Accumulator(3, 4)
        accumulator.update(h[:30].clone(), y[:30].clone(), W.clone().requires_grad_(), b.clone())
        means = accumulator.class_means
    assert not means.requires_grad
    assert not means.is_inference()  # a checkpoint may hold them
    accumulator.update(h[30:], y[30:], W, b)  # outside of the mode: the state is plain
    expected = accumulate(sample, 30).compute()
    assert accumulator.compute() == pytest.approx(expected, rel=0, abs=0, nan_ok=True)


def test_a_classifier_trained_on_before_compute_does_not_leak_in(draw):
    sample = draw(3, 4)
    h, y, W, b = (t.double() if t.is_floating_point() else t for t in sample.tensors())
    accumulator = Accumulator(3, 4)
    accumulator.update(h, y, W, b)
    before = accumulator.compute()
    W.zero_()
    b.fill_(7)
    assert accumulator.compute() == pytest.approx(before, rel=0, nan_ok=True)


def test_pickled_and_moved_copies_are_whole_and_separate(draw, accumulate):
    sample = draw(3, 4)
    original = accumulate(sample, 7, class_means=torch.tensor(sample.weight))
    expected = original.compute()
    for copied in (pickle.loads(pickle.dumps(original)), original.to("cpu")):
        assert copied.compute() == expected
        copied.merge(accumulate(sample, class_means=torch.tensor(sample.weight)))
        assert original.compute() == expected
        assert original.num_samples == 60


def test_update_never_waits_for_the_device(draw):
    # On the meta device there are no values: reading one, as a wait would, is an error.
    h, y, W, b = (t.to("meta") for t in draw(3, 4).tensors())
    Accumulator(3, 4, class_means=W, device="meta").update(h, y, W, b)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_cpu(draw, accumulate):
    sample = draw(5, 16, spread=1e-5)
    cpu = accumulate(sample, 7).compute()
    cuda = accumulate(sample, 7, device="cuda")
    assert cuda.compute() == pytest.approx(cpu, rel=1e-8, nan_ok=True)
    assert cuda.to("cpu").compute() == pytest.approx(cpu, rel=1e-8, nan_ok=True)


@pytest.mark.parametrize("stray", [-1, 3])
def test_a_stray_label_is_reported_by_compute(draw, accumulate, stray):
    sample = draw(3, 4)
    sample.labels[5] = stray
    with pytest.raises(ValueError, match=r"1 labels are outside 0\.\.2; renumber"):
        accumulate(sample, 7).compute()
    merged = Accumulator(3, 4)
    merged.merge(accumulate(sample))
    with pytest.raises(ValueError, match="1 labels are outside"):
        merged.compute()


def test_refusals_name_what_was_received_and_what_to_do(draw, accumulate):
    h, y, W, b = draw(3, 4).tensors()
    accumulator = Accumulator(3, 4)
    with pytest.raises(ValueError, match="no batch was added; call update"):
        accumulator.compute()
    with pytest.raises(ValueError, match=r"features has shape \(60, 3\), expected \(60, 4\)"):
        accumulator.update(h[:, :3], y, W, b)
    with pytest.raises(ValueError, match=r"features has shape \(59, 4\), expected \(60, 4\)"):
        accumulator.update(h[1:], y, W, b)
    with pytest.raises(ValueError, match=r"weight has shape \(2, 4\), expected \(3, 4\)"):
        accumulator.update(h, y, W[:2], b)
    with pytest.raises(ValueError, match=r"bias has shape \(2,\), expected \(3,\)"):
        accumulator.update(h, y, W, b[:2])
    with pytest.raises(ValueError, match=r"labels are torch\.float32.*give integer class ids"):
        accumulator.update(h, y.float(), W, b)
    with pytest.raises(ValueError, match=r"num_classes=1.*at least 2 classes"):
        Accumulator(1, 4)
    with pytest.raises(ValueError, match=r"class_means has shape \(4, 4\), expected \(3, 4\)"):
        Accumulator(3, 4, class_means=torch.zeros(4, 4))
    with pytest.raises(ValueError, match=r"cannot merge.*build both with the same"):
        accumulator.merge(Accumulator(3, 5))
    with pytest.raises(ValueError, match=r"cannot merge.*build both with the same"):
        accumulator.merge(Accumulator(3, 4, class_means=W))


def of(features: torch.Tensor, labels: torch.Tensor) -> Accumulator:
    accumulator = Accumulator(3, features.shape[1])
    accumulator.update(features, labels, torch.ones(3, features.shape[1]), torch.zeros(3))
    return accumulator


def test_features_that_carry_nothing_are_known_from_any_that_do():
    labels = torch.tensor([0, 0, 1, 1, 1])  # the third class has none
    alike = torch.full((5, 4), 7.0)
    by_class = alike.clone()
    by_class[2:, 0] += 1e-3
    within = alike.clone()
    within[0, 1] += 1e-3
    rounded = alike * (1 + 1e-7 * torch.randn(5, 4))
    constant = {name: of(f, labels).is_constant for name, f in {
        "alike": alike, "rounded": rounded, "dead": 0 * alike, "by class": by_class,
        "within": within,
    }.items()}  # fmt: skip
    assert constant == {
        "alike": True, "rounded": True, "dead": True, "by class": False, "within": False,
    }  # fmt: skip
    both = of(alike, labels)
    both.merge(of(alike, labels))
    assert both.is_constant
    both.merge(of(2 * alike, labels))  # another rank's
    assert not both.is_constant
