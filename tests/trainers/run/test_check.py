"""What is told before a trial runs, and what its first evaluation tells."""

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from analysis.store.errors import InputError
from analysis.store.results import ResultStore
from trainers.config import TrialConfig
from trainers.data.splits import Data, Split
from trainers.model import fit
from trainers.run import check
from trainers.run.check import check_trials
from trainers.run.loop import run_trial
from trainers.run.ranks import alone
from trainers.run.trainer import Trainer

Tiny = Callable[..., TrialConfig]


def test_notes_are_told_once(tiny: Tiny, tmp_path: Path) -> None:
    fields = {"model": "resnet18d", "model_kwargs": {}, "image_size": 32}
    configs = [tiny(), *(tiny(**fields, samples_per_class=n, seed=n) for n in (5, 6))]
    notes = check_trials(configs, data_dir=tmp_path, download=False)
    assert [note.split(" ", 1)[0] for note in notes] == ["model=resnet18d"]


@pytest.mark.parametrize(("device", "refused"), [("cpu", True), ("cuda", False)])
def test_convolutions_are_checked_where_trials_run_on_the_cpu(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, refused: bool
) -> None:
    def wrong(name: str, model: nn.Module) -> None:
        raise InputError(f"model={name} is computed wrongly")

    monkeypatch.setattr(fit, "check_convolutions", wrong)
    monkeypatch.setattr(check, "default_device", lambda: torch.device(device))
    if refused:
        with pytest.raises(InputError, match="model=resnet18 is computed wrongly"):
            check_trials([tiny()], data_dir=tmp_path, download=False)
    else:
        check_trials([tiny()], data_dir=tmp_path, download=False)


class Alike(nn.Module):
    """Features of 5 up to float32's rounding, and of the first pixel as far as `share` says."""

    def __init__(self, num_features: int, share: float) -> None:
        super().__init__()
        self.num_features = num_features
        self.share = nn.Parameter(torch.tensor(share))

    def forward(self, images: Tensor) -> Tensor:
        noise = 1e-7 * torch.randn(len(images), self.num_features)
        return 5 * (1 + noise) + self.share * images[:, 0, 0, :1]


@pytest.mark.parametrize(("share", "warned"), [(0.0, True), (0.01, False)])
def test_features_that_carry_nothing_are_told_at_the_first_evaluation(
    tiny: Tiny, share: float, warned: bool
) -> None:
    images = torch.randint(256, (40, 8, 8, 1), dtype=torch.uint8)
    split = Split(images, torch.arange(40) % 10)
    data = Data(split, split, torch.tensor([127.0]), torch.tensor([70.0]))
    trainer = Trainer(tiny(), data, alone())
    trainer.model.backbone = Alike(trainer.num_features, share)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.evaluate()
        trainer.evaluate()
    said = [str(each.message) for each in caught]
    told = ["model=resnet18 gives the same features for every image of the training set"]
    assert [text.split(":")[0] for text in said] == told * warned  # once, if at all


@pytest.mark.parametrize(
    ("fields", "expected"),
    [({}, "fitted"), ({"model": "mlp", "model_kwargs": {"hidden": [4]}}, None)],
)
def test_a_row_says_which_stem_ran(
    tiny: Tiny, store: ResultStore, fields: dict[str, object], expected: str | None
) -> None:
    row = run_trial(tiny(epochs=1, **fields), lambda _: None, store=store)
    assert (row["status"], row.get("small_stem")) == ("finished", expected)
