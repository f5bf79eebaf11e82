"""Any picture becomes an upright (h, w, 3) uint8 RGB array; no other file knows that other forms exist."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from numbers import Real
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as pil
from PIL import ImageFile
from PIL.JpegImagePlugin import JpegImageFile

from facekit.errors import ImageError, MissingExtraError, SettingError
from facekit.face import Image

__all__ = [
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "ImageSource",
    "check_max_pixels",
    "content_digest",
    "find_images",
    "load_image",
    "source_name",
]

ImageSource: TypeAlias = (
    "str | os.PathLike[str] | bytes | IO[bytes] | pil.Image | NDArray[Any] | torch.Tensor"
)
"""What stands for a picture: a path, the bytes of a file, a file object, a PIL picture, array or tensor."""

MAX_PIXELS = 178_956_970
"""The largest picture that is decoded: the size at which Pillow, too, speaks of a decompression bomb."""

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(".heic", ".heif", ".avif", ".jp2", ".ppm", ".pgm", ".pnm"),
)
"""File names that :func:`find_images` takes for pictures, in lower or upper case."""

# The only decoders that a file can reach. Pillow has others, some of which start programs (EPS).
_SIGNATURES = (
    (b"\xff\xd8\xff", "Jpeg"),
    (b"\x89PNG\r\n\x1a\n", "Png"),
    (b"GIF87a", "Gif"),
    (b"GIF89a", "Gif"),
    (b"BM", "Bmp"),
    *((magic, "Tiff") for magic in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    *((b"P%d" % kind, "Ppm") for kind in range(1, 7)),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "Jpeg2K"),
    (b"\xff\x4f\xff\x51", "Jpeg2K"),
)
_FORMATS = "JPEG, PNG, WebP, GIF, BMP, TIFF, HEIC, AVIF, JPEG 2000, PPM"

# EXIF orientation -> what brings the picture upright (Exif 3.0, tag 0x0112).
_UPRIGHT = {
    2: pil.Transpose.FLIP_LEFT_RIGHT,
    3: pil.Transpose.ROTATE_180,
    4: pil.Transpose.FLIP_TOP_BOTTOM,
    5: pil.Transpose.TRANSPOSE,
    6: pil.Transpose.ROTATE_270,
    7: pil.Transpose.TRANSVERSE,
    8: pil.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112


def load_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> Image:
    """Reads one picture as upright RGB.

    The content decides what a file is, not its name. EXIF orientation is applied; transparency is laid on
    white; palettes, grey and CMYK become RGB; 16-bit pictures are scaled to 8 bits, 32-bit ones by the
    smallest of 1 (float only), 255, 65535 and their own maximum that holds them; of an animation the first
    frame counts. Colour profiles are ignored. Nothing is fetched: a URL is an error.

    Args:
        source: path, bytes of a file, binary file object (read from its start, left open), PIL picture, uint8
            array (h, w), (h, w, 1), (h, w, 3) RGB or (h, w, 4) RGBA, or uint8 tensor of these shapes or with
            the channels first. RGB arrays are passed through, without a copy where they can be.
        max_pixels: the largest width x height that is decoded; larger files are refused by their header.

    Returns:
        (h, w, 3) uint8, RGB, contiguous and writable.

    Raises:
        ImageError: missing, unreadable, truncated, too large, not a picture, or an array that is not uint8.
        MissingExtraError: a HEIC file without pillow-heif.
        SettingError: ``max_pixels`` is no number, or none that a picture could keep to.
    """
    check_max_pixels(max_pixels)
    name = source_name(source)
    try:
        if isinstance(source, (np.ndarray, torch.Tensor)):
            return _from_array(source)
        if isinstance(source, pil.Image):
            return _decode(source, max_pixels)
        with _stream(source) as stream, _open(stream) as picture:
            return _decode(picture, max_pixels)
    except _Refused as error:
        raise ImageError(f"{name}: {error}", path=name) from error.__cause__
    except MissingExtraError as error:
        error.path = name
        raise
    except OSError as error:
        raise ImageError(f"{name}: {_reason(error)}", path=name) from error
    except Exception as error:  # decoders raise whatever a damaged file makes of them
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{name}: damaged or cut short ({reason}); replace the file", path=name) from error


def source_name(source: ImageSource) -> str:
    """What messages and results call a picture: its path as given, or what kind of object it is."""
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source) or "''"
    if isinstance(source, (np.ndarray, torch.Tensor)):
        kind = "array" if isinstance(source, np.ndarray) else "tensor"
        return f"<{kind} {'x'.join(map(str, source.shape))}>"
    if isinstance(source, pil.Image):
        return getattr(source, "filename", "") or f"<picture {source.width}x{source.height}>"
    if isinstance(source, (bytes, bytearray, memoryview)):
        return "<bytes>"
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else f"<{type(source).__name__}>"


def content_digest(source: ImageSource) -> str:
    """What tells two pictures of one kind apart that are no files; empty where it cannot be had.

    Pictures that come as a stream, or that Pillow has not read yet, are left unread: they are nameless.
    """
    if isinstance(source, torch.Tensor):
        content = source.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    elif isinstance(source, np.ndarray) or (
        isinstance(source, pil.Image) and not isinstance(source, ImageFile.ImageFile)
    ):
        content = source.tobytes()
    elif isinstance(source, (bytes, bytearray, memoryview)):
        content = bytes(source)
    elif isinstance(source, io.BytesIO):
        content = source.getvalue()
    else:
        return ""
    return hashlib.sha256(content).hexdigest()[:16]


def check_max_pixels(max_pixels: Any) -> None:
    """Makes sure that it is a number of pixels.

    Raises:
        SettingError: it is none.
    """
    if isinstance(max_pixels, bool) or not isinstance(max_pixels, Real) or not float(max_pixels) >= 1:
        raise SettingError(f"max_pixels is {max_pixels!r}: give a number of pixels, at least 1")


def find_images(folder: str | os.PathLike[str], *, recursive: bool = True) -> list[Path]:
    """Lists the pictures in a folder by their suffixes (:data:`IMAGE_SUFFIXES`), sorted by path.

    Hidden files and folders, and with them facekit's own trash, are left out. Symbolic links are not
    followed: what they point at inside the folder is found anyway, what lies outside does not belong to it.

    Raises:
        ImageError: the folder is missing, is a file, cannot be listed, or holds no pictures.
    """
    if not os.fspath(folder):
        raise ImageError("'': names no folder; pass a folder of pictures, '.' for this one", path="")
    root = Path(folder)
    if not os.path.isdir(root):
        problem = "is a file, not a folder" if os.path.exists(root) else "no such folder"
        raise ImageError(f"{root}: {problem}; pass a folder of pictures", path=str(root))
    try:
        found = sorted(_walk(root, recursive))
    except OSError as error:
        path = str(error.filename or root)
        raise ImageError(f"{path}: {_reason(error)}", path=path) from error
    if not found:
        known = " ".join(IMAGE_SUFFIXES)
        problem = f"holds no pictures (files named *{known}; links are not followed)"
        raise ImageError(f"{root}: {problem}", path=str(root))
    return found


def _walk(folder: Path, recursive: bool) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.is_symlink():
                continue
            if entry.is_dir():
                if recursive:
                    yield from _walk(folder / entry.name, recursive)
            elif entry.name.lower().endswith(IMAGE_SUFFIXES) and entry.is_file():
                yield folder / entry.name


class _Refused(Exception):
    """Why a source is not a picture, in words for the user; load_image puts the name before it."""


@contextmanager
def _stream(source: Any) -> Iterator[IO[bytes]]:
    """Opens a path, or wraps bytes; what the caller opened stays open."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        yield io.BytesIO(source)
    elif isinstance(source, (str, os.PathLike)):
        _check_regular(os.fspath(source))
        with Path(source).open("rb") as stream:
            yield stream
    elif hasattr(source, "read"):
        if isinstance(source, io.TextIOBase):
            raise _Refused("the file object gives text; open it in binary mode, 'rb'")
        if hasattr(source, "seek") and getattr(source, "seekable", lambda: True)():
            source.seek(0)
        content = source.read()
        if not isinstance(content, bytes):
            raise _Refused("the file object gives text; open it in binary mode, 'rb'")
        yield io.BytesIO(content)
    else:
        kind = type(source).__name__
        raise _Refused(f"expected a path, bytes, file object, PIL picture, array or tensor; got {kind}")


def _check_regular(path: str) -> None:
    """A pipe or a device could block for ever; a URL would be a strange file name."""
    if "://" in path[:10] or path.startswith("data:"):
        raise _Refused("is a URL; nothing is fetched, download it and pass the file or its bytes")
    if not path:
        raise _Refused("names no file; pass the path of a picture")
    mode = Path(path).stat().st_mode
    if stat.S_ISDIR(mode):
        raise _Refused("is a folder; pass a picture, or list the folder with find_images")
    if not stat.S_ISREG(mode):
        raise _Refused("is not a regular file but a pipe, socket or device; pass a picture file")


def _open(stream: IO[bytes]) -> pil.Image:
    """Reads the header with the one decoder that fits; Image.open would warn, and knows more decoders."""
    head = stream.read(64)
    stream.seek(0)
    if not head:
        raise _Refused("the file is empty (0 bytes); replace it")
    kind = _sniff(head)
    if kind is None:
        raise _Refused(f"is not a picture in a known format ({_FORMATS})")
    return _decoder(kind)(stream)


def _sniff(head: bytes) -> str | None:
    """The name of the decoder for a file that starts with ``head``; None where there is none."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head[4:8] == b"ftyp":  # ISO base media: the brands say which codec
        brands = head[8 : int.from_bytes(head[:4], "big")]
        if b"avif" in brands or b"avis" in brands:
            return "Avif"
        return "Heif" if any(brand in brands for brand in (b"hei", b"hev", b"mif1", b"msf1")) else None
    return next((kind for magic, kind in _SIGNATURES if head.startswith(magic)), None)


def _decoder(kind: str) -> type[ImageFile.ImageFile]:
    if kind == "Heif":
        try:
            heif: type[ImageFile.ImageFile] = import_module("pillow_heif").HeifImageFile
        except ModuleNotFoundError as error:
            raise MissingExtraError("pillow-heif", "heif", "reading HEIC pictures") from error
        return heif
    if kind == "Jpeg":
        return _Jpeg
    try:
        module = import_module(f"PIL.{kind}ImagePlugin")
    except ModuleNotFoundError as error:
        raise _Refused(f"is {kind.upper()}, which needs a newer Pillow: pip install -U pillow") from error
    decoder: type[ImageFile.ImageFile] = getattr(module, f"{kind}ImageFile")
    return decoder


class _Jpeg(JpegImageFile):
    """Does not look for a resolution in EXIF, for which Pillow's parser warns about every damaged tag."""

    def _read_dpi_from_exif(self) -> None:
        pass


def _decode(picture: pil.Image, max_pixels: int) -> Image:
    width, height = picture.size
    if width * height > max_pixels:
        raise _Refused(
            f"{width} x {height} pixels are more than max_pixels = {max_pixels}; shrink it or raise it"
        )
    if width * height == 0:
        raise _Refused(f"{width} x {height} pixels: there is nothing to see")
    picture.load()
    upright = _UPRIGHT.get(_orientation(picture))
    picture = _to_rgb(picture)
    if upright is not None:
        picture = picture.transpose(upright)
    # asarray + copy is seven times faster than np.array, and torch wants memory that it may write to
    return np.asarray(picture).copy()


def _orientation(picture: pil.Image) -> int:
    if hasattr(picture, "tag_v2"):  # TIFF is the container that EXIF borrows; Pillow turns it while loading
        return int(picture.getexif().get(_ORIENTATION, 1))
    exif = picture.info.get("exif")
    return _exif_orientation(exif) if isinstance(exif, bytes) else 1


def _exif_orientation(exif: bytes) -> int:
    """The orientation in an EXIF block (TIFF 6.0, section 2); 1, upright, where the block is damaged."""
    block = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", block, 4)
        (count,) = struct.unpack_from(order + "H", block, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(order + "HH", block, entry)
            if tag == _ORIENTATION:
                (value,) = struct.unpack_from(order + ("H" if kind == 3 else "I"), block, entry + 8)
                return int(value)
    except struct.error:
        pass
    return 1


def _to_rgb(picture: pil.Image) -> pil.Image:
    if picture.mode == "I" or picture.mode == "F" or picture.mode.startswith("I;16"):
        return pil.fromarray(_eight_bits(picture)).convert("RGB")
    if picture.mode == "La":
        picture = picture.convert("LA")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        return pil.alpha_composite(pil.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _eight_bits(picture: pil.Image) -> NDArray[np.uint8]:
    """Scales grey values to 0..255; 32-bit pictures do not say their range, see :func:`load_image`.

    Some rows at a time, because a whole picture in float64 takes eight times its result.
    """
    width, height = picture.size
    step = max(1, (1 << 18) // width)

    def blocks() -> Iterator[NDArray[Any]]:
        for top in range(0, height, step):
            values = np.asarray(picture.crop((0, top, width, min(top + step, height))))
            yield values if values.dtype.kind in "iu" else np.where(np.isfinite(values), values, 0)

    deep = picture.mode.startswith("I;16")
    brightest = 65535.0 if deep else max(float(values.max()) for values in blocks())
    ranges = (255.0, 65535.0, brightest) if picture.mode == "I" else (1.0, 255.0, 65535.0, brightest)
    full = next(limit for limit in ranges if brightest <= limit)
    result = np.empty((height, width), np.uint8)
    for top, values in zip(range(0, height, step), blocks(), strict=True):
        result[top : top + step] = np.clip(np.rint(values.astype(np.float64) * (255.0 / full)), 0, 255)
    return result


def _from_array(source: NDArray[Any] | torch.Tensor) -> Image:
    dtype = str(source.dtype).removeprefix("torch.")
    if dtype != "uint8":
        remedy = "multiply by 255 and convert" if "float" in dtype else "convert"
        raise _Refused(f"uint8 0..255 expected; got {dtype}; {remedy}")
    array = source if isinstance(source, np.ndarray) else _channels_last(source)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise _Refused("expected (h, w), (h, w, 1), (h, w, 3) RGB or (h, w, 4) RGBA, one picture at a time")
    if 0 in array.shape:
        raise _Refused("there is nothing to see in an empty array")
    if array.shape[2] == 4:
        return np.asarray(_to_rgb(pil.fromarray(np.ascontiguousarray(array), "RGBA"))).copy()
    if array.shape[2] == 1:
        return np.repeat(array, 3, axis=2)
    return np.require(array, requirements=["C", "W"])


def _channels_last(source: torch.Tensor) -> NDArray[np.uint8]:
    array = source.detach().cpu().numpy()
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] not in (1, 3, 4):
        return np.moveaxis(array, 0, 2)
    return array


def _reason(error: OSError) -> str:
    """What the operating system or a decoder complained about, and what to do."""
    if isinstance(error, FileNotFoundError):
        return "no such file; check the path"
    if isinstance(error, PermissionError):
        return "permission denied; make it readable for this user"
    if error.errno is not None:
        return f"cannot be read ({error.strerror})"
    return f"damaged or cut short ({error}); replace the file"
