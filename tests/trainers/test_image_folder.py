"""Image folders: which files are samples, and that no image becomes another."""

import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from analysis.store.errors import InputError
from trainers.data.cache import fingerprint
from trainers.image_folder import ENDINGS, decode, list_folder, list_samples, walk_once

RAMP = np.tile(np.linspace(0, 1, 64), (64, 1))  # from black at the left to white at the right
GREY = np.rint(RAMP * 255).astype(np.uint8)


def as_decoded(path: Path, side: int = 64) -> np.ndarray:
    return decode([path], side)[0]


def is_the_ramp(image: np.ndarray) -> bool:
    return bool(np.abs(image.astype(float) - 255 * RAMP[..., None]).max() <= 1.0)


def png_of_16_bits(path: Path, colour_type: int, channels: int) -> None:
    """Written by hand: Pillow writes no 16-bit colour."""
    values = np.repeat(np.rint(RAMP * 65535).astype(">u2")[..., None], channels, axis=2)
    if colour_type in (4, 6):
        values[..., -1] = 65535  # opaque
    raw = b"".join(b"\0" + row.tobytes() for row in values)

    def chunk(kind: bytes, data: bytes) -> bytes:
        whole = kind + data
        return struct.pack(">I", len(data)) + whole + struct.pack(">I", zlib.crc32(whole))

    header = struct.pack(">IIBBBBB", 64, 64, 16, colour_type, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(raw))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("colour_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)], ids=["L", "RGB", "LA", "RGBA"]
)
def test_16_bit_png(tmp_path: Path, colour_type: int, channels: int) -> None:
    png_of_16_bits(tmp_path / "a.png", colour_type, channels)
    assert is_the_ramp(as_decoded(tmp_path / "a.png"))


def test_16_bit_greys_of_other_formats(tmp_path: Path) -> None:
    deep = np.rint(RAMP * 65535).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "a.tif")
    Image.fromarray(deep.byteswap().view(deep.dtype.newbyteorder())).save(tmp_path / "b.tif")
    (tmp_path / "a.pgm").write_bytes(b"P5 64 64 65535\n" + deep.astype(">u2").tobytes())
    ten_bits = np.rint(RAMP * 1023).astype(">u2")
    (tmp_path / "b.pgm").write_bytes(b"P5 64 64 1023\n" + ten_bits.tobytes())
    for path in sorted(tmp_path.iterdir()):
        assert is_the_ramp(as_decoded(path)), path


def test_tiff_whose_white_is_zero_is_turned(tmp_path: Path) -> None:
    for name, values in (("a", np.rint((1 - RAMP) * 65535).astype(np.uint16)), ("b", 255 - GREY)):
        image = Image.fromarray(values)
        image.save(tmp_path / f"{name}.tif", tiffinfo={262: 1})
        data = (tmp_path / f"{name}.tif").read_bytes()
        entry = struct.pack("<HHIH", 262, 3, 1, 1)
        assert data.count(entry) == 1
        (tmp_path / f"{name}.tif").write_bytes(
            data.replace(entry, struct.pack("<HHIH", 262, 3, 1, 0))
        )
        assert is_the_ramp(as_decoded(tmp_path / f"{name}.tif")), name


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_numbers_without_a_range_are_refused(tmp_path: Path, kind: type) -> None:
    Image.fromarray((RAMP * 1000).astype(kind)).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match=r"image .*a.tif can't be decoded \(nothing says which of"):
        as_decoded(tmp_path / "a.tif")


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr"])
def test_other_modes_are_as_shown(tmp_path: Path, mode: str) -> None:
    values = np.where(GREY < 128, 0, 255).astype(np.uint8)
    image = Image.fromarray(values).convert("RGB").convert(mode)
    path = tmp_path / ("a.tif" if mode in ("CMYK", "YCbCr") else "a.png")
    image.save(path)
    assert np.abs(as_decoded(path).astype(int) - values[..., None]).max() <= 1


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P", "L", "RGB"])
def test_a_drawing_on_transparent_ground_is_on_white(tmp_path: Path, mode: str) -> None:
    drawn = GREY < 100
    alpha = Image.fromarray(np.where(drawn, 255, 0).astype(np.uint8))
    options: dict[str, Any] = {}
    if mode == "P":
        image = Image.fromarray(np.where(drawn, 0, 1).astype(np.uint8), "P")
        image.putpalette([0, 0, 0, 0, 0, 0])  # black, and what is seen through
        options = {"transparency": 1}
    elif mode in ("L", "RGB"):
        image = Image.fromarray(np.where(drawn, 0, 7).astype(np.uint8)).convert(mode)
        options = {"transparency": 7 if mode == "L" else (7, 7, 7)}
    else:
        image = Image.new(mode, (64, 64))  # all black
        image.putalpha(alpha)
    image.save(tmp_path / "a.png", **options)
    assert np.array_equal(
        as_decoded(tmp_path / "a.png"), np.repeat(np.where(drawn, 0, 255)[..., None], 3, 2)
    )


def test_half_transparent_is_half_white(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (0, 100, 0, 51)).save(tmp_path / "a.png")
    assert as_decoded(tmp_path / "a.png", 8)[0, 0].tolist() == [204, 224, 204]


@pytest.mark.parametrize(
    ("orientation", "held"),  # how the camera was held, by EXIF's number for it
    [
        (1, None),
        (2, Image.Transpose.FLIP_LEFT_RIGHT),
        (3, Image.Transpose.ROTATE_180),
        (4, Image.Transpose.FLIP_TOP_BOTTOM),
        (5, Image.Transpose.TRANSPOSE),
        (6, Image.Transpose.ROTATE_90),
        (7, Image.Transpose.TRANSVERSE),
        (8, Image.Transpose.ROTATE_270),
    ],
)
def test_a_photograph_is_turned_as_viewers_turn_it(
    tmp_path: Path, orientation: int, held: Image.Transpose | None
) -> None:
    image = Image.fromarray(GREY)
    exif = Image.Exif()
    exif[0x0112] = orientation
    (image if held is None else image.transpose(held)).save(tmp_path / "a.png", exif=exif)
    assert is_the_ramp(as_decoded(tmp_path / "a.png"))


@pytest.mark.parametrize("ending", [".gif", ".webp", ".png", ".tif"])
def test_several_pictures_in_a_file_are_refused(tmp_path: Path, ending: str) -> None:
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    frames[0].save(tmp_path / f"a{ending}", save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match=r"can't be decoded \(it holds 2 pictures; keep one\)"):
        as_decoded(tmp_path / f"a{ending}")
    frames[0].save(tmp_path / f"b{ending}")
    assert as_decoded(tmp_path / f"b{ending}").shape == (64, 64, 3)


def test_a_cameras_preview_is_no_second_picture(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(
        tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[Image.fromarray(GREY)]
    )
    with Image.open(tmp_path / "a.jpg") as image:
        assert (image.format, image.n_frames) == ("MPO", 2)  # pyright: ignore
    assert np.abs(as_decoded(tmp_path / "a.jpg").astype(float) - 255 * RAMP[..., None]).max() < 9


def test_every_damaged_image_is_named(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(8)]
    for i, path in enumerate(paths):
        Image.fromarray(GREY).save(path)
        if i % 3:
            path.write_bytes(b"no image")
    said = rf"image {paths[1]} can't .*, nor can {paths[2]}, {paths[4]}, {paths[5]} and 1 more; "
    with pytest.raises(InputError, match=said + "correct or remove them"):
        decode(paths, 8)
    with pytest.raises(
        InputError,
        match=r"\(UnidentifiedImageError: cannot identify image file\); correct or remove it",
    ):
        decode(paths[:2], 8)


def put(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(GREY).save(path, "PNG")


def names(split: Path) -> list[tuple[str, int]]:
    samples = list_samples(split)
    pairs = zip(samples.paths, samples.labels.tolist(), strict=True)
    return [(str(path.relative_to(split)), label) for path, label in pairs]


def test_hidden_folders_are_no_classes_and_no_samples(tmp_path: Path) -> None:
    hidden = (".ipynb_checkpoints/3.png", "__MACOSX/5.png", "@eaDir/7.png", "._2.png")
    for name in ("a/1.png", "b/2.png", *hidden, *(f"a/{each}" for each in hidden)):
        put(tmp_path / name)
    (tmp_path / "b" / "Thumbs.db").touch()
    assert names(tmp_path) == [("a/1.png", 0), ("b/2.png", 1)]
    assert not list_samples(tmp_path).left_out


def test_files_in_a_class_are_all_read_or_counted(tmp_path: Path) -> None:
    for i, ending in enumerate(ENDINGS):
        put(tmp_path / "a" / "deep" / f"{i:02}{ending.upper() if i % 2 else ending}")
    for name in ("notes.txt", "x.txt", "film.mp4", "README"):
        (tmp_path / "a" / name).touch()
    put(tmp_path / "stray.png")
    samples = list_samples(tmp_path)
    assert len(samples.paths) == len(ENDINGS)
    assert dict(samples.left_out) == {
        ".txt": 2, ".mp4": 1, "without ending": 1, "outside of a class": 1,
    }  # fmt: skip


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    for split in ("train", "val"):
        put(tmp_path / split / "a" / "1.png")
    assert list_folder(tmp_path, "folder/x").notes("folder/x") == []
    (tmp_path / "val" / "a" / "1.txt").touch()
    (tmp_path / "val" / "a" / "2.heic").touch()
    (note,) = list_folder(tmp_path, "folder/x").notes("folder/x")
    assert note.startswith("folder/x: of its test split these files are left out: 1 .")
    assert note.endswith("and lie in the folder of a class)")


def test_the_order_is_torchvisions(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    for name in ("b/x/1.png", "b/x.y/1.png", "b/x-1/2.png", "b/0.png", "b/x/a/0.PNG", "A/9.jpg",
                 "A/10.jpg", "a b/é.png"):  # fmt: skip
        put(tmp_path / name)
    theirs = [(str(Path(p).relative_to(tmp_path)), k) for p, k in ImageFolder(tmp_path).samples]
    assert names(tmp_path) == theirs


def test_each_real_folder_is_read_once(tmp_path: Path) -> None:
    for name in ("a/1.png", "a/below/2.png", "b/3.png"):
        put(tmp_path / name)
    (tmp_path / "a" / "self").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "below" / "again").symlink_to("..")
    (tmp_path / "a" / "zz").symlink_to(tmp_path / "a" / "below")
    assert names(tmp_path) == [("a/1.png", 0), ("a/below/2.png", 0), ("b/3.png", 1)]
    assert len(list(walk_once(tmp_path))) == 4
    before = fingerprint(tmp_path)
    put(tmp_path / "a" / "below" / "4.png")
    assert fingerprint(tmp_path) != before


def test_a_class_may_lie_elsewhere(tmp_path: Path) -> None:
    put(tmp_path / "pool" / "1.png")
    put(tmp_path / "split" / "b" / "2.png")
    (tmp_path / "split" / "a").symlink_to(tmp_path / "pool")
    assert names(tmp_path / "split") == [("a/1.png", 0), ("b/2.png", 1)]


@pytest.mark.parametrize("link", ["c", "a/more"])
def test_no_folder_is_in_two_classes(tmp_path: Path, link: str) -> None:
    for name in ("a/1.png", "b/2.png"):
        put(tmp_path / name)
    (tmp_path / link).symlink_to(tmp_path / "b")
    with pytest.raises(InputError, match=r"is in two classes, \w and \w, by a link; remove"):
        list_samples(tmp_path)


def test_a_folder_that_cannot_be_listed_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "train" / "a" / "b" / "1.png")
    put(tmp_path / "train" / "a" / "2.png")
    listed = os.scandir

    def refuse(folder: str) -> Any:
        if str(folder).endswith("b"):
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match=r"folder/x can't be read .*Permission denied.*a/b"):
        list_folder(tmp_path, "folder/x")
