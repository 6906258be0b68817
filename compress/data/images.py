"""A folder of image files, one sub-folder per class."""

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from compress.data.samples import ROLES, Role, Samples
from compress.errors import DataError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".pgm", ".ppm"})
Mode = Literal["grayscale", "rgb"]


def read_folder(root: Path, *, size: tuple[int, int], mode: Mode) -> tuple[dict[Role, Samples], tuple[str, ...]]:
    """Return the roles of ``root/role/class/*`` and the class names; ``root/class/*`` is all train.

    A train or calibration folder that holds images and no class folders is unlabelled. Classes are in the order of
    their sorted names.

    Args:
        root: the folder.
        size: height and width that every image is resized to.
        mode: one channel or three.

    Raises:
        DataError: when a folder or its images cannot be used; a corrupt image is named.
    """
    if not root.is_dir():
        raise DataError("the image folder does not exist", got=root)
    names = _folders(root)
    if not set(names) & set(ROLES):
        folders: dict[Role, Path] = {"train": root}
    elif unknown := [name for name in names if name not in ROLES]:
        raise DataError(
            "folders of roles and other folders are mixed",
            expected=f"only {', '.join(ROLES)}",
            got=", ".join(unknown),
            where=root,
            hint="rename a validation folder to select",
        )
    else:
        folders = {role: root / role for role in ROLES if role in names}
    classes = tuple(sorted({name for folder in folders.values() for name in _folders(folder)}))
    return {role: _read_role(folder, classes, size=size, mode=mode) for role, folder in folders.items()}, classes


def _folders(root: Path) -> list[str]:
    return sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _files(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.suffix.lower() in SUFFIXES and entry.is_file())


def _read_role(folder: Path, classes: tuple[str, ...], *, size: tuple[int, int], mode: Mode) -> Samples:
    loose = _files(folder)
    if loose and _folders(folder):
        raise DataError("an image lies beside the class folders", got=loose[0], hint="move it into its class's folder")
    if loose:
        labelled, labels = loose, None
    else:
        pairs = [(path, classes.index(name)) for name in _folders(folder) for path in _files(folder / name)]
        labelled, labels = [path for path, _ in pairs], np.array([label for _, label in pairs], np.int64)
    images = [_read_image(path, size=size, mode=mode) for path in labelled]
    channels = 1 if mode == "grayscale" else 3
    return Samples(np.stack(images) if images else np.empty((0, channels, *size), np.uint8), labels)


def _read_image(path: Path, *, size: tuple[int, int], mode: Mode) -> NDArray[np.uint8]:
    """Return one image, uint8 [C, H, W], turned upright, resized without keeping its proportions."""
    height, width = size
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file).convert("L" if mode == "grayscale" else "RGB")
    # What Pillow's decoders raise on damaged files, and its guard against files that unpack to gigabytes.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DataError("the image cannot be read", got=error, where=path, hint="replace or remove the file") from error
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, np.uint8)
    return pixels[None] if mode == "grayscale" else np.ascontiguousarray(pixels.transpose(2, 0, 1))
