"""What is trained: a backbone, or free features, under the paper's linear classifier."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from analysis.store.errors import InputError
from trainers.config import TrialConfig
from trainers.datasets import find_dataset
from trainers.model.backbones import build_backbone, feature_dimension
from trainers.model.fit import check_fit

UFM_FEATURES = 32  # d of `ufm` unless model_kwargs says otherwise


class Head(nn.Module):
    """The linear classifier, logits z = Wh - b. The bias is subtracted, Eqs. (1) and (2)."""

    def __init__(self, num_features: int, num_classes: int, *, bias_init_mean: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_classes, num_features))
        self.bias = nn.Parameter(torch.empty(num_classes))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        bound = 1 / math.sqrt(num_features)
        nn.init.uniform_(self.bias, bias_init_mean - bound, bias_init_mean + bound)

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, d) to logits (B, K)."""
        return F.linear(features, self.weight, -self.bias)


class FreeFeatures(nn.Module):
    """The unconstrained features model of Eq. (3): every training sample owns its features."""

    def __init__(self, num_samples: int, num_features: int) -> None:
        super().__init__()
        self.features = nn.Parameter(torch.randn(num_samples, num_features))

    def forward(self, indices: Tensor) -> Tensor:
        """Sample indices (B,) to features (B, d)."""
        return self.features[indices]


class Classifier(nn.Module):
    """Backbone and head; the forward pass gives both the features and the logits."""

    def __init__(self, backbone: nn.Module, head: Head) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """A batch of inputs to features (B, d) and logits (B, K), float32 also under autocast."""
        features = self.backbone(inputs).float()
        # A head costs nothing, and logits of 16 bits would cost the loss its digits.
        with torch.autocast(features.device.type, enabled=False):
            return features, self.head(features)


def build_model(config: TrialConfig, num_train: int) -> Classifier:
    """The model of a trial, initialised from its seed alone, on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        backbone, num_features = _backbone(config, num_train)
        assert config.num_classes is not None  # a TrialConfig is complete
        head = Head(num_features, config.num_classes, bias_init_mean=config.bias_init_mean)
        return Classifier(backbone, head)


def check_model_builds(config: TrialConfig, *, on_cpu: bool = False) -> list[str]:
    """What the model does that its name doesn't say, each in a line.

    Raises InputError if the model refuses its `model_kwargs` or images of this size.

    Also as `check_fit` does, whose `on_cpu` it is. Costs about a second, and for a large model no
    memory: no weight of it is allocated.
    """
    if config.model == "ufm":
        _free_features(config)
        return []
    feature_dimension(config.model, config.model_kwargs, **_images(config))
    if config.model == "mlp":
        return []
    return check_fit(config.model, config.model_kwargs, **_images(config), on_cpu=on_cpu)


def _backbone(config: TrialConfig, num_train: int) -> tuple[nn.Module, int]:
    if config.model == "ufm":
        num_features = _free_features(config)
        return FreeFeatures(num_train, num_features), num_features
    return build_backbone(config.model, config.model_kwargs, **_images(config))


def _images(config: TrialConfig) -> dict[str, int]:
    assert config.image_size is not None
    return {"channels": find_dataset(config.dataset).channels, "image_size": config.image_size}


def _free_features(config: TrialConfig) -> int:
    """d of `ufm`. Raises InputError if its `model_kwargs` hold anything else."""
    num_features = config.model_kwargs.get("num_features", UFM_FEATURES)
    known = set(config.model_kwargs) <= {"num_features"}
    if not (known and type(num_features) is int and num_features > 0):
        raise InputError(
            f"model_kwargs={config.model_kwargs} don't fit ufm; it takes num_features, a whole "
            f"number from 1 up, and has {UFM_FEATURES} without"
        )
    return num_features
