"""One image file as 8-bit pixels; 16 bits are scaled, and levels of no known range are refused."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from compress.errors import DataError

Mode = Literal["grayscale", "rgb"]
DIM_LEVEL = 1 << 14  # where 16-bit images end below it, 6 bits or fewer would be left, and 12-bit cameras are likely
SCALED_FORMATS = ("PNG", "PPM")  # whose levels Pillow 10 gives as 32-bit integers of 16 bits


@dataclass(frozen=True)
class Picture:
    """An image as the data set holds it.

    Attributes:
        path: its file.
        pixels: uint8 [C, H, W].
        brightest: highest level of a 16-bit file, 0 to 65,535; None for a file of 8 bits.
    """

    path: Path
    pixels: NDArray[np.uint8]
    brightest: int | None


def read_picture(path: Path, *, size: tuple[int, int], mode: Mode) -> Picture:
    """Return one image, turned upright, resized without keeping its proportions.

    Raises:
        DataError: when it is damaged, or its levels are floats or 32-bit integers.
    """
    height, width = size
    try:
        with Image.open(path) as file:
            image, brightest = _to_8_bits(ImageOps.exif_transpose(file), file.format, path)
            image = image.convert("L" if mode == "grayscale" else "RGB")
    except DataError:
        raise
    # What Pillow's decoders raise on damaged files, and its guard against files that unpack to gigabytes.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DataError("the image cannot be read", got=error, where=path, hint="replace or remove the file") from error
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, np.uint8)
    pixels = pixels[None] if mode == "grayscale" else np.ascontiguousarray(pixels.transpose(2, 0, 1))
    return Picture(path, pixels, brightest)


def _to_8_bits(image: Image.Image, kind: str | None, path: Path) -> tuple[Image.Image, int | None]:
    """Return an image of 8 bits and the highest of 16-bit levels; Pillow itself cuts them off at 255.

    Raises:
        DataError: for levels that no format gives a range.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and kind in SCALED_FORMATS):
        levels = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((levels * 255 + 32767) // 65535).astype(np.uint8)), int(levels.max())
    if image.mode in ("I", "F"):
        raise DataError(
            "the range of the image's levels cannot be known",
            expected="8 or 16 bits a channel",
            got="floats" if image.mode == "F" else "32-bit integers",
            where=path,
            hint="scale the levels to 8 or 16 bits, or give them as float32 arrays in an .npz",
        )
    return image, None


def check_depth(pictures: Sequence[Picture]) -> None:
    """Refuse 16-bit images that use the dark end of their range alone.

    Raises:
        DataError: when the brightest level of all of them is below `DIM_LEVEL`.
    """
    deep = [picture for picture in pictures if picture.brightest is not None]
    brightest = max((picture.brightest or 0 for picture in deep), default=DIM_LEVEL)
    if brightest < DIM_LEVEL:
        raise DataError(
            "the images of 16 bits use a small part of their range, and would be nearly black",
            expected="levels up to 65,535",
            got=f"at most {brightest:,} in {len(deep):,} images",
            where=deep[0].path,
            hint="scale their levels to all 16 bits, or give them as float32 arrays in an .npz",
        )
