"""An image file as a model reads it: upright, 8 bits a channel, resized and cropped; needs Pillow and NumPy alone.

This file is copied into every bundle of an image model, so that ``predict.py`` reads files as training read them.
"""

import math
from dataclasses import dataclass
from os import PathLike
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

SCALED_FORMATS = ("PNG", "PPM")  # whose levels Pillow 10 gives as 32-bit integers of 16 bits


class LevelsError(ValueError):
    """The range of an image's levels cannot be known."""


@dataclass(frozen=True)
class Steps:
    """What is done to an upright image of 8 bits.

    Attributes:
        size: height and width of what the model reads.
        channels: ``rgb``, ``bgr`` or ``grayscale``.
        resize: ``shortest`` keeps the proportions and covers ``resize_to``, ``box`` keeps them and fits into it,
            ``squash`` does not keep them.
        resize_to: height and width; None is ``size``.
        interpolation: ``nearest``, ``bilinear``, ``bicubic`` or ``lanczos``, over all pixels that are averaged.
        center: where an odd margin is cut: ``even`` halves it to the even number, as torchvision does, ``down`` rounds
            down, as transformers does.
        fill: levels of what the image does not cover, by channel.
    """

    size: tuple[int, int]
    channels: str = "rgb"
    resize: str = "squash"
    resize_to: tuple[int, int] | None = None
    interpolation: str = "bilinear"
    center: str = "even"
    fill: tuple[int, ...] = (0, 0, 0)

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width that an image is resized to, before it is cropped."""
        to_height, to_width = self.resize_to or self.size
        if self.resize == "squash":
            return to_height, to_width
        if self.resize == "shortest" and to_height == to_width:  # torchvision.transforms.Resize rounds down
            longest = int(to_height * max(height, width) / min(height, width))
            return (longest, to_height) if width <= height else (to_height, longest)
        choose = min if self.resize == "shortest" else max
        ratio = choose(height / to_height, width / to_width)
        return max(1, round(height / ratio)), max(1, round(width / ratio))

    def margin(self, side: int, wanted: int) -> int:
        """Return where a crop begins; below 0 where the image is smaller."""
        if self.center == "down":
            return math.floor((side - wanted) / 2)
        return round((side - wanted) / 2) if side >= wanted else -((wanted - side) // 2)


def read_image(path: str | PathLike[str], steps: Steps) -> NDArray[np.uint8]:
    """Return the image in a file, uint8 [C, H, W].

    Raises:
        LevelsError: for levels that no format gives a range.
        OSError: for a damaged file; SyntaxError, ValueError, EOFError and Pillow's DecompressionBombError likewise.
    """
    return to_array(fit(open_upright(path)[0], steps), steps)


def open_upright(path: str | PathLike[str] | IO[bytes]) -> tuple[Image.Image, int | None]:
    """Return an image turned as its EXIF says, and the highest level of a file of 16 bits; see `read_image`."""
    with Image.open(path) as file:
        image = ImageOps.exif_transpose(file)
        image.info.pop("transparency", None)  # it is dropped, and Pillow warns of doing so to palettes
        return _to_8_bits(image, file.format)


def fit(image: Image.Image, steps: Steps) -> Image.Image:
    """Return an image of the model's size, in grey or RGB."""
    image = image.convert("L" if steps.channels == "grayscale" else "RGB")
    height, width = steps.resized(image.height, image.width)
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling[steps.interpolation.upper()])
    if (height, width) == steps.size:
        return image
    top, left = (steps.margin(side, wanted) for side, wanted in zip((height, width), steps.size, strict=True))
    fill = steps.fill[0] if image.mode == "L" else steps.fill
    canvas = Image.new(image.mode, (steps.size[1], steps.size[0]), fill)
    canvas.paste(image, (-left, -top))
    return canvas


def to_array(image: Image.Image, steps: Steps) -> NDArray[np.uint8]:
    """Return the pixels of an image in the model's order of channels, uint8 [C, H, W]."""
    pixels = np.asarray(image, np.uint8)
    if steps.channels == "grayscale":
        return pixels[None]
    return np.ascontiguousarray((pixels[..., ::-1] if steps.channels == "bgr" else pixels).transpose(2, 0, 1))


def _to_8_bits(image: Image.Image, kind: str | None) -> tuple[Image.Image, int | None]:
    """Return an image of 8 bits and the highest of 16-bit levels; Pillow itself cuts them off at 255."""
    if image.mode.startswith("I;16") or (image.mode == "I" and kind in SCALED_FORMATS):
        levels = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((levels * 255 + 32767) // 65535).astype(np.uint8)), int(levels.max())
    if image.mode in ("I", "F"):
        raise LevelsError("floats" if image.mode == "F" else "32-bit integers")
    return image, None
