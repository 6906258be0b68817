"""Random changes of a picture, as people train image models with; each draws from the generator that it is given."""

import math
from collections.abc import Callable
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from pydantic import Field

from compress.config import Values

Share = Annotated[float, Field(gt=0, le=1)]
Ratio = Annotated[float, Field(gt=0, le=100)]
Strength = Annotated[float, Field(ge=0, le=1)]
TRIES = 10  # of a part of the wanted area and proportions, before the whole picture is taken
MOST_MAGNITUDE = 10


class ResizedCrop(Values):
    """A random part, resized to the model's size (Szegedy et al. 2015, arXiv 1409.4842), as torchvision draws it.

    Attributes:
        scale: smallest and largest share of the picture's area.
        ratio: smallest and largest width over height, drawn evenly on a logarithmic scale.
    """

    scale: tuple[Share, Share] = (0.08, 1.0)
    ratio: tuple[Ratio, Ratio] = (3 / 4, 4 / 3)

    def model_post_init(self, _context: object) -> None:
        """Refuse ends that are the wrong way round."""
        _refuse_reversed(self.scale, self.ratio)

    def apply(self, image: Image.Image, size: tuple[int, int], generator: np.random.Generator) -> Image.Image:
        """Return a part of a picture, of ``size`` (height, width)."""
        height, width = size
        return image.resize(
            (width, height), Image.Resampling.BICUBIC, box=self.draw(image.width, image.height, generator)
        )

    def draw(self, width: int, height: int, generator: np.random.Generator) -> tuple[int, int, int, int]:
        """Return left, top, right and bottom of a part."""
        found = draw_box(width, height, self.scale, self.ratio, generator)
        return found or (0, 0, width, height)


class ColourJitter(Values):
    """Brightness, contrast and saturation times a factor from 1 - strength to 1 + strength, in this order.

    Attributes:
        brightness: its strength, 0 to 1.
        contrast: likewise.
        saturation: likewise; grey pictures have none.
    """

    brightness: Strength = 0.4
    contrast: Strength = 0.4
    saturation: Strength = 0.4

    def apply(self, image: Image.Image, generator: np.random.Generator) -> Image.Image:
        """Return a picture of other light and colours."""
        kinds = (
            (ImageEnhance.Brightness, self.brightness),
            (ImageEnhance.Contrast, self.contrast),
            (ImageEnhance.Color, self.saturation),
        )
        for enhance, strength in kinds:
            image = enhance(image).enhance(float(generator.uniform(1 - strength, 1 + strength)))
        return image


class RandAugment(Values):
    """Some operations out of twelve, each with one strength and a random sign (Cubuk et al. 2020, arXiv 1909.13719).

    Deviations: the operations are Pillow's own (autocontrast, equalize, rotate, posterize, solarize, colour, contrast,
    brightness, sharpness, shears and a shift), with the strengths of timm.

    Attributes:
        operations: how many are drawn for each picture, one may come twice.
        magnitude: of all of them, 0 to 10.
    """

    operations: Annotated[int, Field(ge=1, le=12)] = 2
    magnitude: Annotated[float, Field(ge=0, le=MOST_MAGNITUDE)] = 9.0

    def apply(self, image: Image.Image, generator: np.random.Generator) -> Image.Image:
        """Return the picture after the operations."""
        level = self.magnitude / MOST_MAGNITUDE
        for number in generator.integers(len(OPERATIONS), size=self.operations):
            image = OPERATIONS[int(number)](image, level, 1.0 if generator.random() < 0.5 else -1.0)
        return image


class Erase(Values):
    """A rectangle of the mean colour over a part of the picture (Zhong et al. 2017, arXiv 1708.04896).

    Attributes:
        probability: of there being one.
        scale: smallest and largest share of the area.
        ratio: smallest and largest width over height.
    """

    probability: Share = 0.25
    scale: tuple[Share, Share] = (0.02, 1 / 3)
    ratio: tuple[Ratio, Ratio] = (0.3, 1 / 0.3)

    def model_post_init(self, _context: object) -> None:
        """Refuse ends that are the wrong way round."""
        _refuse_reversed(self.scale, self.ratio)

    def apply(self, pixels: NDArray[np.uint8], fill: NDArray[np.uint8], generator: np.random.Generator) -> None:
        """Change pixels [C, H, W] in place.

        Args:
            pixels: of a picture.
            fill: level of each channel, [C].
            generator: draws.
        """
        if generator.random() >= self.probability:
            return
        box = draw_box(pixels.shape[2], pixels.shape[1], self.scale, self.ratio, generator)
        if box is not None:
            left, top, right, bottom = box
            pixels[:, top:bottom, left:right] = fill[:, None, None]


def draw_box(
    width: int,
    height: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    generator: np.random.Generator,
) -> tuple[int, int, int, int] | None:
    """Return left, top, right and bottom of a part of an area and proportions within the bounds; None if none fits."""
    for _ in range(TRIES):
        area = width * height * generator.uniform(*scale)
        aspect = math.exp(generator.uniform(math.log(ratio[0]), math.log(ratio[1])))
        wide, high = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < wide <= width and 0 < high <= height:
            left, top = (int(generator.integers(room + 1)) for room in (width - wide, height - high))
            return left, top, left + wide, top + high
    return None


def _refuse_reversed(*ranges: tuple[float, float]) -> None:
    for low, high in ranges:
        if low > high:
            raise ValueError(f"expected the smaller number first, got {low:g} and {high:g}")


def _affine(image: Image.Image, *matrix: float) -> Image.Image:
    grey: tuple[int, ...] | int = 128 if image.mode == "L" else (128, 128, 128)
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=grey)


def _rotate(image: Image.Image, level: float, sign: float) -> Image.Image:
    grey: tuple[int, ...] | int = 128 if image.mode == "L" else (128, 128, 128)
    return image.rotate(30 * level * sign, Image.Resampling.BILINEAR, fillcolor=grey)


def _enhance(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> "Operation":
    return lambda image, level, sign: kind(image).enhance(1 + 0.9 * level * sign)


Operation = Callable[[Image.Image, float, float], Image.Image]
OPERATIONS: tuple[Operation, ...] = (
    lambda image, _level, _sign: ImageOps.autocontrast(image),
    lambda image, _level, _sign: ImageOps.equalize(image),
    _rotate,
    lambda image, level, _sign: ImageOps.posterize(image, 8 - round(4 * level)),
    lambda image, level, _sign: ImageOps.solarize(image, 256 - round(256 * level)),
    _enhance(ImageEnhance.Color),
    _enhance(ImageEnhance.Contrast),
    _enhance(ImageEnhance.Brightness),
    _enhance(ImageEnhance.Sharpness),
    lambda image, level, sign: _affine(image, 1, 0.3 * level * sign, 0, 0, 1, 0),
    lambda image, level, sign: _affine(image, 1, 0, 0, 0.3 * level * sign, 1, 0),
    lambda image, level, sign: _affine(image, 1, 0, 0.45 * level * sign * image.width, 0, 1, 0),
)
