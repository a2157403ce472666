import math

import pytest

from analysis.paper.published import Key, has, numbers


def test_numbers_of_the_paper_as_fractions() -> None:
    accuracy = Key("cifar10", "resnet18", "adamw", "da1+da2", "bce", "accuracy")
    assert numbers(2)[accuracy].mean == pytest.approx(0.9557)
    s_pos = numbers(1)[Key("cifar10", "resnet50", "sgd", "none", "ce", "s_pos")]
    assert s_pos == (5.74, 8.21)
    compactness = Key("cifar100", "resnet18", "sgd", "da1", "ce", "compactness")
    assert numbers(3)[compactness].mean == 0.7234
    assert math.isnan(numbers(3)[compactness].spread)


def test_every_table_is_whole() -> None:
    # Table 1: 3 networks x 2 optimizers x (4 quantities of both losses + alpha of BCE).
    # Tables 2, 3: 2 datasets x 3 networks x 2 optimizers x 2 augmentations x 2 losses x 2.
    assert [len(numbers(number)) for number in (1, 2, 3)] == [54, 96, 96]


def test_has() -> None:
    assert has(2, "cifar100", "densenet121")
    assert not has(1, "cifar100", "densenet121")
    assert not has(2, "digits", "resnet18")
