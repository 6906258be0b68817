"""One image file as 8-bit pixels; 16 bits are scaled, and levels of no known range are refused."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from compress.data.read_image import LevelsError, Steps, fit, open_upright, to_array
from compress.errors import DataError

Mode = Literal["grayscale", "rgb"]
DIM_LEVEL = 1 << 14  # where 16-bit images end below it, 6 bits or fewer would be left, and 12-bit cameras are likely


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


def read_picture(path: Path, steps: Steps) -> Picture:
    """Return one image, turned upright, resized and cropped; raises as `open_picture` does."""
    image, brightest = open_picture(path)
    return Picture(path, to_array(fit(image, steps), steps), brightest)


def open_picture(path: Path, content: IO[bytes] | None = None) -> tuple[Image.Image, int | None]:
    """Return one image of 8 bits, turned upright, and the highest level of a 16-bit file.

    Args:
        path: of the file.
        content: what is in it, where it was read before.

    Raises:
        DataError: when it is damaged, or its levels are floats or 32-bit integers.
    """
    try:
        return open_upright(path if content is None else content)
    except LevelsError as error:
        raise DataError(
            "the range of the image's levels cannot be known",
            expected="8 or 16 bits a channel",
            got=error,
            where=path,
            hint="scale the levels to 8 or 16 bits, or give them as float32 arrays in an .npz",
        ) from error
    # What Pillow's decoders raise on damaged files, and its guard against files that unpack to gigabytes.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DataError("the image cannot be read", got=error, where=path, hint="replace or remove the file") from error


def check_depth(levels: Mapping[Path, int]) -> None:
    """Refuse 16-bit images that use the dark end of their range alone.

    Args:
        levels: the highest level of each 16-bit file.

    Raises:
        DataError: when the brightest level of all of them is below `DIM_LEVEL`.
    """
    brightest = max(levels.values(), default=DIM_LEVEL)
    if brightest < DIM_LEVEL:
        raise DataError(
            "the images of 16 bits use a small part of their range, and would be nearly black",
            expected="levels up to 65,535",
            got=f"at most {brightest:,} in {len(levels):,} images",
            where=next(iter(levels)),
            hint="scale their levels to all 16 bits, or give them as float32 arrays in an .npz",
        )
