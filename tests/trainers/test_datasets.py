"""Datasets as they lie on disk, and what is said when they don't."""

import gzip
import hashlib
import pickle
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from PIL import Image

from analysis.store.errors import InputError
from trainers.config import TrialConfig
from trainers.data import cache
from trainers.data import splits as data_module
from trainers.data.splits import Data, check_data, load_data, stamp_of
from trainers.datasets import DATASETS, SIZES, find_dataset

Tiny = Callable[..., TrialConfig]
COUNTS = {"train": 20, "t10k": 10}
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
RNG = np.random.default_rng(0)
GREY = {split: RNG.integers(256, size=(n, 28, 28), dtype=np.uint8) for split, n in COUNTS.items()}
COLOUR = RNG.integers(256, size=(10, 3, 32, 32), dtype=np.uint8)


@pytest.fixture(autouse=True)
def _forget() -> None:
    """Each test as in a new process."""
    data_module._stored.cache_clear()


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written here is all that there is of each dataset."""
    grey, colour = (COUNTS["train"], COUNTS["t10k"]), len(COLOUR)
    for name in ("MNIST", "FashionMNIST"):
        monkeypatch.setitem(SIZES, name, grey)
    monkeypatch.setitem(SIZES, "CIFAR10", (5 * colour, colour))
    monkeypatch.setitem(SIZES, "CIFAR100", (colour, colour))


def load(config: TrialConfig, data_dir: Path, *, download: bool = False) -> Data:
    return load_data(config, data_dir=data_dir, download=download, device=torch.device("cpu"))


def write_mnist(folder: Path, name: str) -> Path:
    """MNIST's own format: idx files of big-endian sizes and bytes."""
    raw = folder / name / "raw"
    raw.mkdir(parents=True)
    for split, count in COUNTS.items():
        header = struct.pack(">iiii", 2051, count, 28, 28)
        (raw / f"{split}-images-idx3-ubyte").write_bytes(header + GREY[split].tobytes())
        labels = bytes(i % 10 for i in range(count))
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">ii", 2049, count) + labels)
    return raw


def write_cifar(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """CIFAR's own format: pickles of rows, a channel after the other, known by their md5."""
    from torchvision import datasets

    theirs = getattr(datasets, name)
    base = folder / theirs.base_folder
    base.mkdir()
    labels = "labels" if name == "CIFAR10" else "fine_labels"
    images = {"data": COLOUR.reshape(len(COLOUR), -1), labels: [*range(len(COLOUR))]}

    def write(file: str, content: dict[str, object]) -> str:
        pickled = pickle.dumps(content, protocol=2)
        (base / file).write_bytes(pickled)
        return hashlib.md5(pickled).hexdigest()

    for files in ("train_list", "test_list"):
        listed = [[file, write(file, images)] for file, _ in getattr(theirs, files)]
        monkeypatch.setattr(theirs, files, listed)
    md5 = write(theirs.meta["filename"], {theirs.meta["key"]: ["a", "b"]})
    monkeypatch.setattr(theirs, "meta", theirs.meta | {"md5": md5})
    return base


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")]
)
def test_mnist_format(tmp_path: Path, tiny: Tiny, name: str, folder: str) -> None:
    write_mnist(tmp_path, folder)
    config = tiny(dataset=name, samples_per_class=None, image_size=28)
    data = load(config, tmp_path)
    assert data.test
    for split, part in (("train", data.train), ("t10k", data.test)):
        for channel in range(3):  # grey in three channels
            assert np.array_equal(part.inputs[..., channel].numpy(), GREY[split])
        assert part.labels.tolist() == [i % 10 for i in range(COUNTS[split])]
    at_32 = load(tiny(dataset=name, samples_per_class=None), tmp_path)
    assert at_32.train.inputs.shape == (20, 32, 32, 3)
    means = at_32.train.inputs.float().mean((1, 2, 3)) - data.train.inputs.float().mean((1, 2, 3))
    assert means.abs().max() < 3
    assert len(list((tmp_path / "cache").glob(f"{name}-*px.*"))) == 4


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    ("name", "theirs", "files"), [("cifar10", "CIFAR10", 5), ("cifar100", "CIFAR100", 1)]
)
def test_cifar_format(
    tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, name: str, theirs: str, files: int
) -> None:
    base = write_cifar(tmp_path, theirs, monkeypatch)
    config = tiny(dataset=name, samples_per_class=None, num_classes=10)
    data = load(config, tmp_path)
    assert data.test
    assert data.train.labels.tolist() == [*range(10)] * files
    assert data.test.labels.tolist() == [*range(10)]
    assert np.array_equal(data.test.inputs.numpy(), COLOUR.transpose(0, 2, 3, 1))
    cut(next(base.glob("test*")), 100)
    with pytest.raises(InputError, match=rf"not found or corrupted\); remove {base} and allow"):
        load(config, tmp_path)


@pytest.mark.slow  # 70,000 images
@pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_the_real_fashion_mnist(tmp_path: Path, tiny: Tiny) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for path in DEBIAN.glob("*.gz"):
        with gzip.open(path) as packed, (raw / path.stem).open("wb") as plain:
            shutil.copyfileobj(packed, plain)
    config = tiny(dataset="fashion_mnist", samples_per_class=None)
    data = load(config, tmp_path)
    assert data.test
    assert data.train.labels.bincount().tolist() == [6000] * 10
    assert data.test.labels.bincount().tolist() == [1000] * 10
    padded = data.train.padded
    assert padded is not None
    assert padded.shape == (60000, 40, 40, 3)
    pixels = data.prepare(data.train.inputs[::10])
    assert pixels.mean().item() == pytest.approx(0, abs=0.05)
    assert pixels.std().item() == pytest.approx(1, abs=0.05)
    too_many = tiny(dataset="fashion_mnist", samples_per_class=6001)
    with pytest.raises(InputError, match="samples_per_class=6001 is more than class 0 of fash"):
        check_data([too_many], data_dir=tmp_path, download=False)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100"])
def test_missing_data_without_download_is_one_line(tmp_path: Path, tiny: Tiny, name: str) -> None:
    with pytest.raises(
        InputError, match=r"can't be read from .*; allow --download, or put"
    ) as error:
        load(tiny(dataset=name), tmp_path)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_part_of_a_dataset_is_not_taken_for_it(tmp_path: Path, tiny: Tiny) -> None:
    write_mnist(tmp_path, "MNIST")
    with pytest.raises(InputError, match=r"\(20 images and 20 labels in its training split, not 6"):
        load(tiny(dataset="mnist"), tmp_path)


def cut(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])


def fewer_labels(path: Path) -> None:
    path.write_bytes(struct.pack(">ii", 2049, 19) + bytes(19))


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    ("file", "damage", "reason"),
    [
        ("train-images-idx3-ubyte", lambda path: cut(path, 0), "ValueError|invalid"),
        ("train-images-idx3-ubyte", lambda path: cut(path, 10), "[a-z]"),
        ("t10k-images-idx3-ubyte", lambda path: cut(path, 16 + 784 * 9), "is invalid for input"),
        ("train-images-idx3-ubyte", lambda path: path.write_bytes(b"<html>no</html>"), "[a-z]"),
        ("train-labels-idx1-ubyte", lambda path: cut(path, 12), "is invalid for input"),
        ("train-labels-idx1-ubyte", fewer_labels, "20 images and 19 labels"),
    ],
)
@pytest.mark.parametrize("download", [False, True])
def test_a_damaged_file_that_torchvision_takes_for_good_is_one_line(
    tmp_path: Path,
    tiny: Tiny,
    file: str,
    damage: Callable[[Path], None],
    reason: str,
    download: bool,
) -> None:
    damage(write_mnist(tmp_path, "MNIST") / file)
    folder = tmp_path / "MNIST"
    todo = "to fetch it anew" if download else "and allow --download, or put its files there"
    with pytest.raises(
        InputError,
        match=rf"MNIST can't be read from {tmp_path} \(.*({reason}).*\); remove {folder}",
    ) as error:
        load(tiny(dataset="mnist"), tmp_path, download=download)
    assert str(error.value).endswith(todo)
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "cache").glob("mnist*"))


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder that a server on this machine serves, and its address."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.mark.usefixtures("few")
def test_downloads_are_checked_and_fetched_anew(
    tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, mirror: tuple[Path, str]
) -> None:
    from torchvision.datasets import MNIST

    folder, url = mirror
    data_dir = tmp_path / "data"
    resources = []
    for path in write_mnist(tmp_path / "good", "MNIST").iterdir():
        packed = gzip.compress(path.read_bytes(), mtime=0)
        (folder / f"{path.name}.gz").write_bytes(packed)
        resources.append((f"{path.name}.gz", hashlib.md5(packed).hexdigest()))
    monkeypatch.setattr(MNIST, "resources", resources)
    monkeypatch.setattr(MNIST, "mirrors", [url])
    last = folder / resources[-1][0]
    whole = last.read_bytes()
    cut(last, 20)
    config = tiny(dataset="mnist", samples_per_class=2)
    with pytest.raises(InputError, match=rf"corrupted\); remove {data_dir / 'MNIST'} to") as error:
        load(config, data_dir, download=True)
    assert "\n" not in str(error.value)
    last.write_bytes(whole)
    assert load(config, data_dir, download=True).train.labels.tolist() == [*range(10)] * 2
    shutil.rmtree(folder)
    data_module._stored.cache_clear()
    assert len(load(config, data_dir, download=True).train) == 20


def test_no_network_is_one_line(
    tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import MNIST

    monkeypatch.setattr(MNIST, "mirrors", [f"{tmp_path.as_uri()}/nothing/"] * 2)
    with pytest.raises(InputError, match=r"Error downloading .*; check the network, or") as error:
        load(tiny(dataset="mnist"), tmp_path / "data", download=True)
    assert "\n" not in str(error.value)


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def flat(height: int, width: int, colour: tuple[int, int, int]) -> np.ndarray:
    return np.tile(np.array(colour, np.uint8), (height, width, 1))


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Three classes; what the order of their names is, files are written in another."""
    for split, count in (("train", 3), ("val", 2)):
        for i, name in enumerate(("dog", "cat", "ant")):
            for j in range(count):
                save(tmp_path / "pets" / split / name / f"{j}.png", flat(9, 12, (i, j, 200)))
    return tmp_path / "pets"


def test_image_folder(pets: Path, tiny: Tiny) -> None:
    config = tiny(dataset="folder/pets", num_classes=3, image_size=8, samples_per_class=None)
    data = load(config, pets.parent)
    assert data.test
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]  # ant, cat, dog
    assert data.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    colours = [(i, j, 200) for i in (2, 1, 0) for j in range(3)]
    assert torch.equal(
        data.train.inputs,
        torch.tensor(colours, dtype=torch.uint8)[:, None, None].expand(9, 8, 8, 3),
    )
    (pets / "train" / "ant" / "0.png").unlink()
    assert load(config, pets.parent).train.labels.tolist()[:3] == [0, 0, 1]


def test_a_known_stamp_spares_the_look_at_every_file(
    pets: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(dataset="folder/pets", num_classes=3, image_size=8, samples_per_class=None)
    expected = load(config, pets.parent)
    stamp = stamp_of("folder/pets", pets.parent)
    assert stamp_of("digits", pets.parent) == ""
    looked: list[Path] = []
    fingerprint = cache.fingerprint

    def look(source: Path) -> str:
        looked.append(source)
        return fingerprint(source)

    monkeypatch.setattr(cache, "fingerprint", look)
    words = {"data_dir": pets.parent, "download": False, "device": torch.device("cpu")}
    for each in (stamp, "0123456789"):  # the second of another machine's files
        data_module._stored.cache_clear()
        found = load_data(config, **words, stamp=each)
        assert found.fingerprint == expected.fingerprint
        assert bool(looked) == (each != stamp)


def test_the_middle_of_the_shorter_side_is_kept(tmp_path: Path, tiny: Tiny) -> None:
    wide = np.concatenate([flat(16, n, c) for n, c in ((8, (255, 0, 0)), (16, (0, 99, 0)))], axis=1)
    wide = np.concatenate([wide, flat(16, 8, (0, 0, 255))], axis=1)  # 16 x 32: red, green, blue
    for split in ("train", "test"):
        for name in "ab":
            save(tmp_path / "x" / split / name / "0.png", wide)
    config = tiny(dataset="folder/x", num_classes=2, image_size=16, samples_per_class=None)
    image = load(config, tmp_path).train.inputs[0]
    assert torch.equal(image, torch.tensor([0, 99, 0], dtype=torch.uint8).expand(16, 16, 3))
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255  # finer than 16 pixels can show: grey, if antialiased
    save(tmp_path / "x" / "train" / "a" / "0.png", stripes)
    image = load(config, tmp_path).train.inputs[0, :, 2:-2].float()
    assert (image - 127.5).abs().max() < 10


def test_wrong_image_folders_are_one_line(pets: Path, tiny: Tiny) -> None:
    def refused(said: str, **fields: object) -> None:
        with pytest.raises(InputError, match=said) as error:
            load(tiny(**{"dataset": "folder/pets", "num_classes": 3, **fields}), pets.parent)
        assert "\n" not in str(error.value)

    refused("num_classes=4 is more than folder/pets has in .*; use at most 3", num_classes=4)
    refused("samples_per_class=4 is more than class 0 .* at most 3", samples_per_class=4)
    refused(r"folder/pet can't be read .*No such file.*; put images in", dataset="folder/pet")
    picture = pets / "train" / "cat" / "1.png"
    whole = picture.read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2]):
        picture.write_bytes(content)
        refused(rf"image {picture} can't be decoded \(.+\); correct or remove it")
    assert not list((pets.parent / "cache").glob("folder*"))
    picture.write_bytes(whole)
    shutil.rmtree(pets / "val" / "cat")
    refused("folder/pets has class 'cat' in only one of")
    (pets / "val" / "cat").mkdir()
    refused(f"{pets / 'val' / 'cat'} has no images; put some there, in files that end in .bmp")


@pytest.mark.parametrize("name", ["", "..", "../pets", "a/../../b", "/etc", "."])
def test_a_folder_is_inside_the_data_folder(name: str) -> None:
    with pytest.raises(InputError, match="names no folder inside the data folder"):
        find_dataset(f"folder/{name}")


def test_an_image_folder_needs_its_number_of_classes(tiny: Tiny) -> None:
    with pytest.raises(InputError, match="dataset=folder/pets needs num_classes"):
        tiny(dataset="folder/pets")
    config = tiny(dataset="folder/pets", num_classes=3)
    assert (config.image_size, config.samples_per_class) == (32, 6)


def test_an_unknown_dataset_names_the_nearest(tiny: Tiny) -> None:
    with pytest.raises(InputError, match=r"dataset='cifar_10' .* did you mean 'cifar10'"):
        tiny(dataset="cifar_10")
    with pytest.raises(InputError, match=r"known: .*folder/NAME"):
        find_dataset("folder")


def test_synthetic_is_of_any_size_and_learnable(tiny: Tiny) -> None:
    config = tiny(dataset="synthetic", samples_per_class=None)
    assert (config.num_classes, config.samples_per_class, config.image_size) == (10, 500, 32)
    assert config.trial_id == tiny(dataset="synthetic", samples_per_class=500).trial_id
    data = load(tiny(dataset="synthetic", num_classes=40, samples_per_class=70), Path("nowhere"))
    assert data.test
    assert data.train.inputs.shape == (2800, 32, 32, 3)
    assert data.train.labels.bincount().tolist() == [70] * 40
    assert data.test.labels.bincount().tolist() == [100] * 40
    pixels = data.prepare(data.train.inputs)
    assert pixels.mean().item() == pytest.approx(0, abs=0.05)
    assert pixels.std().item() == pytest.approx(1, abs=0.05)
    # Nearest class mean, which is linear in the pixels; chance is 1 in 40.
    train, test = (data.prepare(split.inputs).flatten(1) for split in (data.train, data.test))
    means = torch.stack([train[data.train.labels == k].mean(0) for k in range(40)])
    nearest = torch.cdist(test, means).argmin(1)
    assert (nearest == data.test.labels).float().mean() > 0.9


def test_synthetic_is_the_same_each_time_and_its_test_split_in_any_size(tiny: Tiny) -> None:
    few, more = (
        load(tiny(dataset="synthetic", samples_per_class=n), Path("nowhere")) for n in (5, 9)
    )
    data_module._stored.cache_clear()
    again = load(tiny(dataset="synthetic", samples_per_class=5), Path("nowhere"))
    assert few.test
    assert more.test
    assert again.test
    assert torch.equal(few.train.inputs, again.train.inputs)
    assert torch.equal(few.train.inputs, more.train.inputs[:50])
    assert torch.equal(few.test.inputs, more.test.inputs)
    assert not torch.equal(few.test.inputs[:50], few.train.inputs)
    with pytest.raises(InputError, match="num_classes=1001 must be from 2 to 1000 for synthetic"):
        tiny(dataset="synthetic", num_classes=1001)


def test_facts_load_no_torch() -> None:
    code = "import sys, trainers.datasets; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
    assert all(DATASETS[name].channels in (0, 1, 3) for name in DATASETS.names())
