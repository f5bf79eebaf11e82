"""Every form in which a picture may come, and every way in which it may be bad."""

from __future__ import annotations

import builtins
import io
import os
import struct
import sys
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from facekit.errors import ImageError, MissingExtraError, SettingError
from facekit.image import find_images, load_image, source_name


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def photo(pictures: Path) -> Image.Image:
    with Image.open(pictures / "people" / "P001" / "amateur_selfie.jpg") as picture:
        return picture.crop((100, 100, 340, 360)).convert("RGB")


def assert_picture(image: np.ndarray, expected: Image.Image | np.ndarray, tolerance: float = 0.0) -> None:
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert image.flags.writeable
    expected = np.asarray(expected)
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected.astype(int)).mean() <= tolerance


# ---------------------------------------------------------------- sources


def test_every_kind_of_source_gives_the_same_picture(photo: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    photo.save(path)
    array = np.asarray(photo)
    with path.open("rb") as stream:
        stream.seek(7)  # wherever it stands, it is read from its start
        sources: list[Any] = [
            *(str(path), path, path.read_bytes(), bytearray(path.read_bytes()), stream),
            *(io.BytesIO(path.read_bytes()), photo, array, torch.from_numpy(array.copy())),
            torch.from_numpy(array.copy()).permute(2, 0, 1),
        ]
        for source in sources:
            assert_picture(load_image(source), photo)
        assert not stream.closed


def test_a_file_object_that_cannot_seek_is_read(photo: Image.Image) -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *args: int) -> int:
            raise io.UnsupportedOperation("seek")

    assert_picture(load_image(Pipe(encoded(photo, "PNG"))), photo)


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 1)])
def test_grey_arrays_become_three_equal_channels(shape: tuple[int, ...]) -> None:
    grey = np.arange(600, dtype=np.uint32).astype(np.uint8).reshape(shape)
    assert_picture(load_image(grey), np.repeat(grey.reshape(20, 30, 1), 3, axis=2))


def test_rgb_arrays_are_not_copied_unless_they_must_be() -> None:
    array = np.zeros((8, 9, 3), np.uint8)
    assert load_image(array) is array
    array.flags.writeable = False
    assert_picture(load_image(array), array)
    assert_picture(load_image(array[:, ::-1]), array)


def test_rgba_arrays_are_laid_on_white() -> None:
    array = np.zeros((4, 4, 4), np.uint8)
    array[:2, :, 3] = 255
    assert load_image(array)[:, 0, 0].tolist() == [0, 0, 255, 255]


@pytest.mark.parametrize(
    ("source", "remedy"),
    [
        (np.zeros((8, 8, 3), np.float32), "got float32; multiply by 255 and convert"),
        (torch.full((3, 8, 8), float("nan")), "got float32; multiply by 255 and convert"),
        (np.zeros((8, 8, 3), np.int64), "got int64; convert"),
        (np.zeros((8, 8), bool), "got bool; convert"),
        (np.zeros((2, 8, 8, 3), np.uint8), "one picture at a time"),
        (np.zeros((8, 8, 2), np.uint8), "one picture at a time"),
        (np.zeros(8, np.uint8), "one picture at a time"),
        (np.zeros((0, 8, 3), np.uint8), "empty array"),
        ([[1, 2], [3, 4]], "expected a path, bytes, file object"),
        (None, "expected a path, bytes, file object"),
        (io.StringIO("text"), "binary mode"),
        (io.TextIOWrapper(io.BytesIO(b"\xff\xd8\xff"), "utf-8"), "binary mode"),
        ("", "^'': names no file"),
        ("x" * 5000, "File name too long"),
        ("https://example.org/face.jpg", "nothing is fetched"),
        ("data:image/png;base64,AAAA", "nothing is fetched"),
    ],
)
def test_what_is_no_picture_is_refused_with_the_remedy(source: Any, remedy: str) -> None:
    with pytest.raises(ImageError, match=remedy) as caught:
        load_image(source)
    assert caught.value.path == source_name(source)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", ["a", None, True, 0, float("nan")])
def test_a_limit_that_is_none_is_the_settings_fault(wrong: Any) -> None:
    with pytest.raises(SettingError, match=r"max_pixels is .*: give a number"):
        load_image(b"", max_pixels=wrong)


def test_source_names(photo: Image.Image, tmp_path: Path) -> None:
    assert source_name(tmp_path / "a.jpg") == str(tmp_path / "a.jpg")
    assert source_name("a.jpg") == "a.jpg"
    assert source_name(b"...") == "<bytes>"
    assert source_name(np.zeros((480, 640, 3))) == "<array 480x640x3>"
    assert source_name(torch.zeros(3, 480, 640)) == "<tensor 3x480x640>"
    assert source_name(photo) == "<picture 240x260>"
    assert source_name(io.BytesIO()) == "<BytesIO>"
    photo.save(tmp_path / "a.png")
    with (tmp_path / "a.png").open("rb") as stream, Image.open(tmp_path / "a.png") as picture:
        assert source_name(stream) == source_name(picture) == str(tmp_path / "a.png")


# ---------------------------------------------------------------- modes and formats


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied_once(photo: Image.Image, kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(photo, kind, exif=exif, **({"quality": 95} if kind in ("JPEG", "WEBP") else {}))
    with Image.open(io.BytesIO(content)) as picture:
        expected = ImageOps.exif_transpose(picture).convert("RGB")
    assert_picture(load_image(content), expected)
    with Image.open(io.BytesIO(content)) as picture:
        assert_picture(load_image(picture), expected)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [3, 4])
def test_orientation_in_either_byte_order_and_width(photo: Image.Image, order: str, kind: int) -> None:
    magic = {"<": b"II*\0", ">": b"MM\0*"}[order]
    value = struct.pack(order + ("HH" if kind == 3 else "I"), *((6, 0) if kind == 3 else (6,)))
    entry = struct.pack(order + "HHI", 0x0112, kind, 1) + value
    exif = b"Exif\0\0" + magic + struct.pack(order + "IH", 8, 1) + entry + b"\0" * 4
    assert load_image(encoded(photo, "JPEG", exif=exif)).shape == (240, 260, 3)


@given(st.binary(max_size=64))
@settings(max_examples=60, deadline=None)
def test_a_damaged_exif_block_never_stops_a_picture(damage: bytes) -> None:
    picture = Image.new("RGB", (6, 4), "red")
    content = encoded(picture, "JPEG", exif=b"Exif\0\0II*\0" + damage)
    assert load_image(content).shape in ((4, 6, 3), (6, 4, 3))


def test_palette_with_transparency_is_laid_on_white() -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.putpixel((1, 0), 1)
    content = encoded(picture, "PNG", transparency=1)
    assert load_image(content).tolist() == [[[255, 0, 0], [255, 255, 255]]]
    content = encoded(picture, "PNG", transparency=bytes([255, 128]))
    assert load_image(content)[0, 1].tolist() == [127, 127, 255]


def test_half_transparent_edges_have_no_black_fringe() -> None:
    white_cutout = Image.new("RGBA", (9, 9), (255, 255, 255, 0))
    for x in range(9):
        white_cutout.putpixel((x, 4), (255, 255, 255, 28 * x))
    assert load_image(encoded(white_cutout, "PNG")).min() == 255
    assert load_image(encoded(white_cutout.convert("LA"), "PNG")).min() == 255


def test_a_transparent_colour_key_is_laid_on_white() -> None:
    content = encoded(Image.new("RGB", (2, 2), (1, 2, 3)), "PNG", transparency=(1, 2, 3))
    assert load_image(content).min() == 255
    content = encoded(Image.new("L", (2, 2), 7), "PNG", transparency=7)
    assert load_image(content).min() == 255


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA", "La", "RGBa", "HSV", "YCbCr", "LAB", "CMYK"])
def test_pil_modes_become_rgb(photo: Image.Image, mode: str) -> None:
    if mode == "La":
        picture = photo.convert("LA").convert("La")
    elif mode == "RGBa":
        picture = photo.convert("RGBA").convert("RGBa")
    elif mode == "LAB":
        picture = Image.new("LAB", photo.size, (128, 128, 128))
    else:
        picture = photo.convert(mode)
    image = load_image(picture)
    assert_picture(image, image)
    assert image.shape == (260, 240, 3)
    if mode in ("RGBA", "RGBa", "CMYK", "YCbCr", "HSV", "P"):
        assert_picture(image, photo, tolerance=16)


def test_cmyk_jpegs_are_not_negatives(photo: Image.Image) -> None:
    content = encoded(photo.convert("CMYK"), "JPEG", quality=95)
    assert b"Adobe" in content  # and with it the inverted values that Photoshop writes
    assert_picture(load_image(content), photo, tolerance=4)


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    expected = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    for kind in ("PNG", "TIFF"):
        assert_picture(load_image(encoded(Image.fromarray(ramp), kind)), expected)
    assert_picture(load_image(Image.fromarray(ramp.astype(np.int32))), expected)
    big_endian = Image.frombytes("I;16B", (16, 16), ramp.astype(">u2").tobytes())
    assert_picture(load_image(big_endian), expected)


def test_sixteen_bit_colour_png() -> None:
    rows = b"".join(b"\0" + struct.pack(">6H", 0, 32768, 65535, 65535, 0, 257) for _ in range(2))
    assert load_image(png(2, 2, 16, 2, rows))[0].tolist() == [[0, 128, 255], [255, 0, 1]]


@pytest.mark.parametrize(("top", "expected"), [(1, 255), (255, 255), (65535, 255), (1e6, 255), (0.5, 128)])
def test_float_pictures_are_scaled_by_the_range_that_holds_them(top: float, expected: int) -> None:
    values = np.array([[0.0, top], [np.nan, -3.0]], np.float32)
    image = load_image(encoded(Image.fromarray(values), "TIFF"))
    assert image[:, :, 0].tolist() == [[0, expected], [0, 0]]


def test_a_large_float_picture_takes_little_memory_and_one_range() -> None:
    """Its one bright row sets the range of all the others; before, it took 20 bytes a pixel."""
    values = np.full((3000, 1000), 500.0, np.float32)
    values[-1] = 1000.0
    picture = Image.fromarray(values)
    tracemalloc.start()
    image = load_image(picture)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert image[0, 0].tolist() == [2, 2, 2]
    assert peak < 14 * values.size


def test_integer_pictures_of_one_are_dark() -> None:
    assert load_image(Image.fromarray(np.ones((2, 2), np.int32)))[0, 0].tolist() == [1, 1, 1]


def test_one_bit_pictures_are_black_and_white() -> None:
    eye = np.eye(8, dtype=np.uint8)[:, :, None] * 255
    picture = Image.fromarray(eye[:, :, 0] > 0)
    for kind in ("PNG", "TIFF", "BMP"):
        assert_picture(load_image(encoded(picture, kind)), np.repeat(eye, 3, axis=2))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "AVIF", "MPO"])
def test_of_an_animation_the_first_frame_counts(kind: str) -> None:
    first, second = (Image.new("RGB", (16, 16), colour) for colour in ("red", "blue"))
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(first, kind, save_all=True, append_images=[second], **options)
    assert_picture(load_image(content), first, tolerance=3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "PPM", "AVIF"])
def test_every_format_of_the_list(photo: Image.Image, kind: str) -> None:
    assert_picture(load_image(encoded(photo, kind)), photo, tolerance=8)


def test_heic_with_the_extra(photo: Image.Image) -> None:
    heif = pytest.importorskip("pillow_heif")
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    heif.from_pillow(photo).save(buffer, quality=90)
    assert_picture(load_image(buffer.getvalue()), photo, tolerance=6)
    buffer = io.BytesIO()
    heif.from_pillow(photo).save(buffer, quality=90, exif=exif.tobytes())
    assert_picture(load_image(buffer.getvalue()), photo.transpose(Image.Transpose.ROTATE_270), tolerance=6)


def test_heic_without_the_extra_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(MissingExtraError, match=r"facekit-torch\[heif\]") as caught:
        load_image(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 99)
    assert caught.value.path == "<bytes>"


# ---------------------------------------------------------------- bad input, by name


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">2I5B", width, height, depth, colour, 0, 0, 0)
    chunks = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def refused(source: Any, reason: str) -> None:
    with pytest.raises(ImageError, match=reason) as caught:
        load_image(source)
    assert caught.value.path == source_name(source)
    assert str(caught.value).startswith(source_name(source))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_truncated(photo: Image.Image, tmp_path: Path, kind: str, share: float) -> None:
    content = encoded(photo, kind)
    path = tmp_path / "cut.jpg"
    path.write_bytes(content[: int(share * len(content))])
    refused(path, "damaged or cut short")


def test_zero_byte(tmp_path: Path) -> None:
    path = tmp_path / "empty.jpg"
    path.touch()
    refused(path, "empty")
    refused(b"", "empty")


def test_non_image(tmp_path: Path) -> None:
    path = tmp_path / "page.jpg"
    path.write_text("<html>not found</html>")
    refused(path, "not a picture in a known format")


def test_decoders_beyond_the_list_are_out_of_reach(photo: Image.Image) -> None:
    for kind in ("EPS", "PDF", "ICO", "TGA", "PCX"):
        refused(encoded(photo, kind), "not a picture in a known format")


def test_wrong_extension_is_no_matter(photo: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "really_a_png.jpg"
    path.write_bytes(encoded(photo, "PNG"))
    assert_picture(load_image(path), photo)


def test_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png(60_000, 60_000, 8, 2, b"\0" * 1000))
    refused(path, "60000 x 60000 pixels are more than max_pixels = 178956970")
    with pytest.raises(ImageError, match="max_pixels = 99"):
        load_image(Image.new("RGB", (10, 10)), max_pixels=99)


def test_between_pillows_limits_and_ours_nothing_is_said(
    photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", photo.width * photo.height - 1)  # would warn
    assert_picture(load_image(encoded(photo, "PNG")), photo)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)  # would refuse
    assert_picture(load_image(encoded(photo, "PNG")), photo)


def test_one_by_one() -> None:
    assert load_image(encoded(Image.new("RGB", (1, 1), "red"), "PNG")).tolist() == [[[255, 0, 0]]]


def test_directory_and_missing(tmp_path: Path) -> None:
    refused(tmp_path, "is a folder")
    refused(tmp_path / "missing.jpg", "no such file")
    refused(str(tmp_path / "a" / "b.jpg"), "no such file")
    refused("nul\0byte.jpg", "damaged|null")


def test_unreadable_permission(photo: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret.png"
    photo.save(path)

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(builtins, "open", refuse)  # root may read everything, so chmod proves nothing
    monkeypatch.setattr(io, "open", refuse)
    refused(path, "permission denied")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_and_devices_never_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    refused(tmp_path / "pipe.jpg", "not a regular file")
    refused("/dev/null", "not a regular file")


def test_a_disk_that_fails_is_reported(photo: Image.Image) -> None:
    class Broken(io.BytesIO):
        def read(self, *args: Any) -> bytes:
            raise OSError(5, "Input/output error")

    refused(Broken(encoded(photo, "PNG")), "Input/output error")


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_flipped_bytes_give_a_picture_or_one_clear_error(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["JPEG", "PNG", "GIF", "BMP", "WEBP", "PPM"]))
    noise = np.random.default_rng(0).integers(0, 255, (24, 20, 3), dtype=np.uint8)
    content = bytearray(encoded(Image.fromarray(noise), kind))
    for _ in range(data.draw(st.integers(1, 12))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with suppress(ImageError):
        image = load_image(bytes(content), max_pixels=10_000)
        assert image.ndim == 3
        assert image.dtype == np.uint8


def test_loading_from_many_threads(photo: Image.Image) -> None:
    contents = [encoded(photo, kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF")] * 8
    alone = [load_image(content) for content in contents]
    with ThreadPoolExecutor(4) as pool:
        for one, other in zip(alone, pool.map(load_image, contents), strict=True):
            assert np.array_equal(one, other)


# ---------------------------------------------------------------- folders


def test_find_images_lists_pictures_in_order(tmp_path: Path) -> None:
    names = ["b/2.PNG", "a.jpg", "b/10.jpeg", "c.heic", "b/d/e.webp"]
    for name in [*names, "note.txt", ".hidden.jpg", ".facekit-trash/x.jpg", "b/.cache/y.jpg"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()
    assert find_images(tmp_path) == sorted(tmp_path / name for name in names)
    assert find_images(str(tmp_path), recursive=False) == [tmp_path / "a.jpg", tmp_path / "c.heic"]


def test_find_images_follows_no_links(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / "a.jpg").touch()
    (inside / "out").symlink_to(outside)
    (inside / "out.jpg").symlink_to(outside / "a.jpg")
    (inside / "loop").symlink_to(inside)
    (inside / "again.jpg").symlink_to(inside / "a.jpg")
    (inside / "nowhere.jpg").symlink_to(inside / "missing.jpg")
    assert find_images(inside) == [inside / "a.jpg"]
    (tmp_path / "door").symlink_to(inside)  # the folder itself may be reached through a link
    assert find_images(tmp_path / "door") == [tmp_path / "door" / "a.jpg"]


def test_find_images_says_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").touch()
    with pytest.raises(ImageError, match=r"holds no pictures .*\.jpg"):
        find_images(tmp_path)
    for name in ("missing", "x" * 5000, "nul\0"):
        with pytest.raises(ImageError, match="no such folder"):
            find_images(tmp_path / name)
    with pytest.raises(ImageError, match=r"^'': names no folder"):
        find_images("")
    with pytest.raises(ImageError, match="is a file, not a folder"):
        find_images(tmp_path / "a.txt")

    def refuse(path: Path) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ImageError, match="permission denied") as caught:
        find_images(tmp_path)
    assert caught.value.path == str(tmp_path)
