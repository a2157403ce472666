"""One trial as a plain script, as it is often written: the peer of `benchmarks.whole`.

PIL transforms and a DataLoader, NCHW, `.item()` every step, then a pass over each split that keeps
all features, of which each metric is computed as its formula stands.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor, nn, optim
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.metrics import separate_passes


class Images(Dataset):
    """Images (N, H, W, C) uint8 and labels (N,), through a transform."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, transform: transforms.Compose):
        self.images = images.squeeze(3) if images.shape[3] == 1 else images
        self.labels = labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[object, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def loaders(args: argparse.Namespace) -> list[DataLoader]:
    """Of the training set with DA1, and of both splits as they are."""
    data = np.load(args.data)
    channels = data["train_images"].shape[3]
    end = [transforms.ToTensor(), transforms.Normalize((0.286,) * channels, (0.353,) * channels)]
    plain = [transforms.Resize(args.size), *end]
    crop = transforms.RandomCrop(args.size, padding=args.size // 8)
    da1 = [transforms.Resize(args.size), crop, transforms.RandomHorizontalFlip(), *end]
    return [
        DataLoader(
            Images(data[f"{split}_images"], data[f"{split}_labels"], transforms.Compose(steps)),
            batch_size=args.batch_size,
            shuffle=steps is da1,
            num_workers=args.workers,
            persistent_workers=args.workers > 0,
        )
        for split, steps in (("train", da1), ("train", plain), ("test", plain))
    ]


def build_model(args: argparse.Namespace, channels: int) -> nn.Module:
    """A narrow ResNet18 with the stem for small images."""
    model = timm.create_model("resnet18", num_classes=10, channels=args.channels)
    width: int = model.conv1.out_channels  # pyright: ignore
    model.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")  # as timm's
    model.maxpool = nn.Identity()
    return model


def build_optimizer(name: str, model: nn.Module) -> optim.Optimizer:
    """The paper's, without their schedules, which mean little in a few epochs."""
    if name == "adamw":
        return optim.AdamW(model.parameters(), lr=0.001, weight_decay=0.05)
    return optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)


def loss_of(name: str, logits: Tensor, labels: Tensor) -> Tensor:
    """CE, or BCE summed over the classes."""
    if name == "ce":
        return F.cross_entropy(logits, labels)
    targets = F.one_hot(labels, logits.shape[1]).float()
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / len(logits)


def evaluate(model: nn.Module, loader: DataLoader) -> dict[str, float]:
    """Every metric of a split."""
    model.eval()
    features, labels = [], []
    with torch.no_grad():
        for inputs, targets in loader:
            maps = model.forward_features(inputs)  # pyright: ignore[reportCallIssue]
            features.append(model.forward_head(maps, pre_logits=True))  # pyright: ignore[reportCallIssue]
            labels.append(targets)
        head: nn.Linear = model.fc  # pyright: ignore[reportAssignmentType]
        # Logits are Wh - b there.
        return separate_passes(torch.cat(features), torch.cat(labels), head.weight, -head.bias)


def main() -> None:
    """Train, and write a line of metrics an epoch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help=".npz of both splits")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--loss", choices=("ce", "bce"), default="ce")
    parser.add_argument("--optimizer", choices=("sgd", "adamw"), default="sgd")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--channels", type=int, nargs=4, default=(64, 128, 256, 512))
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    train, *splits = loaders(args)
    model = build_model(args, next(iter(splits[1]))[0].shape[1])
    optimizer = build_optimizer(args.optimizer, model)
    with args.out.open("w") as out:
        for epoch in range(1, args.epochs + 1):
            model.train()
            total = 0.0
            for inputs, labels in train:
                loss = loss_of(args.loss, model(inputs), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.item()
            row: dict[str, float] = {"epoch": epoch, "train_loss": total / len(train)}
            for name, loader in zip(("train", "test"), splits, strict=True):
                row |= {f"{key}_{name}": v for key, v in evaluate(model, loader).items()}
            print(json.dumps(row), file=out, flush=True)


if __name__ == "__main__":
    main()
