"""Whose fault an OSError is: of the code that trains, or of the machine, which is tried again."""

import errno
from collections.abc import Callable
from typing import Any

import pytest
from PIL import UnidentifiedImageError

from analysis.store.results import ResultStore
from trainers.config import TrialConfig
from trainers.run.loop import run_trial
from trainers.run.ranks import RankLostError
from trainers.run.trainer import Trainer

Tiny = Callable[..., TrialConfig]


@pytest.mark.parametrize(
    ("error", "is_its_own"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file", "weights.pt"), True),
        (UnidentifiedImageError("cannot identify image file"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), False),
        (TimeoutError("no answer"), False),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), False),
        (RankLostError("a rank is gone"), False),
    ],
)
def test_what_a_loss_can_not_open_is_the_trials_fault_and_not_the_machines(
    tiny: Tiny,
    store: ResultStore,
    monkeypatch: pytest.MonkeyPatch,
    error: OSError,
    is_its_own: bool,
) -> None:
    def train_epoch(self: Trainer, epoch: int) -> dict[str, Any]:
        raise error

    monkeypatch.setattr(Trainer, "train_epoch", train_epoch)
    if is_its_own:
        run_trial(tiny(), lambda row: None, store=store)
        (trial,) = store.read_rows("trials", tiny().trial_id)
        assert (trial["status"], trial["failure"]) == ("failed", "own_code")
        assert trial["reason"] == f"{type(error).__name__}: {error}"
        assert ", in train_epoch\n    raise error\n" in trial["traceback"]
    else:
        with pytest.raises(type(error)):
            run_trial(tiny(), lambda row: None, store=store)
        assert store.read_rows("trials", tiny().trial_id)[0]["status"] == "running"
