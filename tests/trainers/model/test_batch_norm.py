"""What is synchronised over GPUs computes what it computed on one."""

import copy

import pytest
import timm
import torch
from torch import nn

from analysis.store.errors import InputError
from trainers.model.batch_norm import sees_the_batch, synchronise
from trainers.model.classifier import build_model
from trainers.run.ranks import Ranks, synchronise_batch_norm

# One of each family of timm that normalises by the batch in another way, or acts in another place.
MODELS = (
    "densenet121", "resnet18", "mobilenetv3_small_050", "regnety_002",
    "ghostnet_050", "repvgg_a0", "mobileone_s0", "levit_128s", "lcnet_050",
    "resnest14d", "darknet17",
)  # fmt: skip
SMALL = {"resnet18", "densenet121"}


def norms(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def outputs(model: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """In training, which moves the statistics, and then in evaluation."""
    found = []
    for training in (True, False):
        torch.manual_seed(0)  # of drop-out
        found.append(model.train(training)(images))
    return found


# Outside of a group of processes, the synchronised kernel is the plain one: what is left is
# what the conversion makes of a model.
@pytest.mark.parametrize("name", MODELS)
def test_the_synchronised_model_is_the_same_function(name: str) -> None:
    side = 64 if name in SMALL else 224
    torch.manual_seed(0)
    plain = timm.create_model(name, num_classes=0).double()
    synchronised = copy.deepcopy(plain)
    synchronise(synchronised, name)
    assert norms(synchronised)
    assert all(isinstance(norm, nn.SyncBatchNorm) for norm in norms(synchronised))
    images = torch.randn(2, 3, side, side, dtype=torch.float64)
    expected, found = outputs(plain, images), outputs(synchronised, images)
    for a, b in zip(expected, found, strict=True):
        assert torch.equal(a, b)
        assert a.std() > 0


def test_no_activation_of_densenet_is_lost(tiny) -> None:
    model = build_model(tiny(model="densenet121", model_kwargs={}, image_size=32), 60)
    ranks = Ranks(torch.device("cuda"), 0, 2)
    assert synchronise_batch_norm(model, "densenet121", ranks) == "global batch"
    count = 0

    def hook(*_: object) -> None:
        nonlocal count
        count += 1

    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(hook)
    features, _ = model.eval()(torch.randn(2, 1, 32, 32))
    assert count == 121
    assert (features >= 0).all()


class Odd(nn.BatchNorm2d):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running_var", torch.ones(3))


@pytest.mark.parametrize(
    ("layer", "name"),
    [(Odd(3), "Odd"), (Own(), "Own"), (timm.layers.EvoNorm2dB0(3), "EvoNorm2dB0")],
)
def test_a_norm_that_would_change_is_refused(layer: nn.Module, name: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), layer)
    assert sees_the_batch(model)
    with pytest.raises(InputError, match=rf"model=mine normalises by the batch in 1 \({name}\)"):
        synchronise(model, "mine")
    assert model[1] is layer
    assert synchronise_batch_norm(model, "mine", Ranks(torch.device("cuda"))) is None
    with pytest.warns(UserWarning, match="numbers depend on the number of workers"):
        assert synchronise_batch_norm(model, "mine", Ranks(torch.device("cpu"), 0, 2)) == "per rank"


@pytest.mark.parametrize(
    "layer", [nn.LayerNorm(3), nn.GroupNorm(1, 3), nn.InstanceNorm2d(3, track_running_stats=True)]
)
def test_what_sees_one_sample_is_left_alone(layer: nn.Module) -> None:
    assert not sees_the_batch(layer)
    assert synchronise_batch_norm(layer, "mine", Ranks(torch.device("cuda"), 0, 2)) is None
