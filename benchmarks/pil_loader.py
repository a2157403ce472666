"""The loader of many a training script: PIL images through torchvision's transforms, one by one."""

from collections.abc import Iterator

from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.synthetic import BATCH, MEAN, SIZE, STD

DA1 = transforms.Compose(
    [
        transforms.RandomCrop(SIZE, padding=4),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    ]
)


class PilImages(Dataset):
    """Images (N, H, W, C) uint8 and labels (N,), as torchvision's CIFAR10 gives them."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images = images.numpy()
        self.labels = labels.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[object, int]:
        return DA1(Image.fromarray(self.images[index])), self.labels[index]


def pil_loader(images: Tensor, labels: Tensor) -> DataLoader:
    """Shuffled batches by two workers, which stay for all epochs."""
    return DataLoader(
        PilImages(images, labels),
        batch_size=BATCH,
        shuffle=True,
        num_workers=2,
        persistent_workers=True,
    )


def endless(loader: DataLoader) -> Iterator[tuple[Tensor, Tensor]]:
    """Epoch after epoch, so that a round of a few steps doesn't pay for the start of one."""
    while True:
        yield from loader
