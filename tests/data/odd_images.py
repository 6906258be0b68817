"""A hundred images of odd sizes and of every kind that Pillow opens, the same each time; none is lossy."""

from pathlib import Path

import numpy as np
from PIL import Image

KINDS = ("rgb", "turned", "cmyk", "palette", "transparent", "alpha", "grey", "grey alpha", "bits16", "bilevel")


def write_odd_images(folder: Path, *, count: int = 100) -> list[Path]:
    """Write the images and return their paths; number n is of kind ``KINDS[n % 10]``."""
    return [_write(folder, number) for number in range(count)]


def _write(folder: Path, number: int) -> Path:
    generator, kind = np.random.default_rng(number), KINDS[number % len(KINDS)]
    height, width = (int(side) for side in generator.integers(9, 70, 2))
    # Smooth with some noise, as photographs are; noise alone would be flat once it is shrunk.
    rows, columns = np.linspace(0, 6, height)[:, None, None], np.linspace(0, 5, width)[None, :, None]
    waves = np.sin(rows * generator.uniform(0.5, 2, 3) + columns * generator.uniform(0.5, 2, 3))
    pixels = np.clip(127 + 110 * waves + generator.normal(0, 12, waves.shape), 0, 255).astype(np.uint8)
    image = Image.fromarray(pixels)
    path = folder / f"{number:03d}.{'tif' if kind == 'cmyk' else 'png'}"
    if kind == "turned":
        exif = Image.Exif()
        exif[0x0112] = 1 + (number // len(KINDS)) % 8
        image.save(path, exif=exif)
        return path
    alpha = Image.fromarray(pixels[..., 0])
    made = {
        "rgb": lambda: image,
        "cmyk": lambda: image.convert("CMYK"),
        "palette": lambda: image.quantize(40),
        "transparent": lambda: image.quantize(40),
        "alpha": lambda: Image.merge("RGBA", (*image.split(), alpha)),
        "grey": lambda: image.convert("L"),
        "grey alpha": lambda: Image.merge("LA", (image.convert("L"), alpha)),
        "bits16": lambda: Image.fromarray(pixels[..., 0].astype(np.uint16) * 257),
        "bilevel": lambda: image.convert("1"),
    }[kind]()
    made.save(path, **({"transparency": 3} if kind == "transparent" else {}))
    return path
