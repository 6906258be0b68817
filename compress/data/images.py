"""A folder of image files, one sub-folder per class; what is no image of a class is skipped, and counted."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compress.data.index import read_index
from compress.data.picture import check_depth, read_picture
from compress.data.read_image import Steps
from compress.data.samples import ROLES, Role, Samples
from compress.data.source import Raw
from compress.data.stored import ImageFiles
from compress.errors import DataError, listing
from compress.progress import Reporter

SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".pgm", ".ppm")
HIDDEN = "__MACOSX"  # what macOS puts into archives: shadows of the files, under their names


@dataclass(frozen=True)
class Folder:
    """What one folder holds, itself alone.

    Attributes:
        folders: its folders, in the order of their names.
        images: its image files, likewise.
        skipped: how many entries are neither, by why.
    """

    folders: tuple[Path, ...]
    images: tuple[Path, ...]
    skipped: Counter[str]


@dataclass(frozen=True)
class RoleFiles:
    """The image files of a role.

    Attributes:
        images: their paths.
        names: the class of each, or None when the role is unlabelled.
        skipped: how many entries are no images of a class, by why.
    """

    images: tuple[Path, ...]
    names: tuple[str, ...] | None
    skipped: Counter[str]


@dataclass(frozen=True)
class Read:
    """What became of some image files, in their order.

    Attributes:
        inputs: the images [N, C, H, W]; of files that cannot be read they mean nothing.
        levels: the highest level of each 16-bit file.
        faults: why files cannot be read.
        notes: what a user should know of it.
    """

    inputs: NDArray[np.uint8] | ImageFiles
    levels: dict[Path, int]
    faults: dict[Path, str]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Manner:
    """How image files are read.

    Attributes:
        steps: what is done to every image.
        memory_bytes: images that take more when they are decoded stay on disk and are read through an index.
        skip: leave out the files that cannot be read, and count them, instead of refusing the folder.
        store: keeps the index; None keeps none.
        reporter: shows how far it is.
    """

    steps: Steps
    memory_bytes: float = math.inf
    skip: bool = False
    store: Path | None = None
    reporter: Reporter = field(default_factory=lambda: Reporter(quiet=True))


def read_folder(root: Path, manner: Manner) -> Raw:
    """Return the roles of ``root/role/class/*`` and the class names; ``root/class/*`` is all train.

    A train or calibration folder that holds images and no class folders is unlabelled. Classes are those that train has
    images of, in the order of their names; those of all roles where train is unlabelled.

    Args:
        root: the folder.
        manner: how its images are read.

    Raises:
        DataError: when a folder or its images cannot be used; a corrupt image is named.
    """
    if not root.is_dir():
        raise DataError("the image folder does not exist", got=root)
    skipped, folders = _find_roles(root)
    files: dict[Role, RoleFiles] = {role: _find_images(folder) for role, folder in folders.items()}
    for found in files.values():
        skipped.update(found.skipped)
    classes = _find_classes(files, root)
    images = [path for found in files.values() for path in found.images]
    channels = 1 if manner.steps.channels == "grayscale" else 3
    large = len(images) * channels * math.prod(manner.steps.size) > manner.memory_bytes
    read = _index(root, images, manner) if large else _decode(images, manner, channels)
    if read.faults and not manner.skip:
        path, fault = next(iter(read.faults.items()))
        raise DataError(
            "the image cannot be read" if len(read.faults) == 1 else f"{len(read.faults):,} images cannot be read",
            got=fault,
            where=path,
            hint="replace or remove the file, or set on_error: skip to leave out such files",
        )
    check_depth(read.levels)
    notes = [*read.notes]
    notes += [f"{len(read.levels):,} images of 16 bits are scaled to 8"] if read.levels else []
    if read.faults:
        named = listing([path.relative_to(root).as_posix() for path in read.faults])
        notes.append(f"{len(read.faults):,} of {len(images):,} images cannot be read and are left out: {named}")
    if skipped:
        notes.append(f"skipped in {root.name}: {_words(skipped)}")
    everything, number = Samples(read.inputs, None), {name: index for index, name in enumerate(classes)}
    roles, before = dict[Role, Samples](), 0
    for role, found in files.items():
        sound = np.flatnonzero([path not in read.faults for path in found.images])
        names = None if found.names is None else np.array([number[name] for name in found.names], np.int64)[sound]
        roles[role] = Samples(everything.take(sound + before).inputs, names)
        before += len(found.images)
    return Raw(roles, classes, tuple(notes))


def _decode(images: Sequence[Path], manner: Manner, channels: int) -> Read:
    """Read all images into memory.

    Raises:
        DataError: for the first that cannot be read, where none may be skipped.
    """
    pixels = np.zeros((len(images), channels, *manner.steps.size), np.uint8)
    levels, faults = dict[Path, int](), dict[Path, str]()
    for position, path in enumerate(images):
        try:
            picture = read_picture(path, manner.steps)
        except DataError as error:
            if not manner.skip:
                raise
            faults[path] = f"{error.message}: {error.got}"
            continue
        pixels[position] = picture.pixels
        levels |= {} if picture.brightest is None else {path: picture.brightest}
    return Read(pixels, levels, faults)


def _index(root: Path, images: Sequence[Path], manner: Manner) -> Read:
    index, told = read_index(root, images, store=manner.store, reporter=manner.reporter)
    return Read(
        ImageFiles(index, np.arange(len(images)), manner.steps, manner.store),
        {images[row]: int(index.brightest[row]) for row in np.flatnonzero(index.brightest >= 0).tolist()},
        {images[row]: fault for row, fault in index.faults.items()},
        (*told, f"{len(images):,} images stay on disk and are read through an index"),
    )


def _look(folder: Path) -> Folder:
    folders, images, skipped = list[Path](), list[Path](), Counter[str]()
    for entry in sorted(folder.iterdir()):
        suffix = entry.suffix.lower()
        if entry.name.startswith(".") or entry.name == HIDDEN:
            skipped["hidden"] += 1
        elif entry.is_dir():
            folders.append(entry)
        elif suffix in SUFFIXES and entry.is_file():
            images.append(entry)
        else:
            skipped[suffix or "without a suffix"] += 1
    return Folder(tuple(folders), tuple(images), skipped)


def _inside(folder: Path) -> Iterator[Path]:
    """Yield the image files in the folders of a folder, however deep; links are not followed."""
    for entry in _look(folder).folders:
        if not entry.is_symlink():
            yield from _look(entry).images
            yield from _inside(entry)


def _find_roles(root: Path) -> tuple[Counter[str], dict[Role, Path]]:
    """Return what lies beside the role folders, and these; the root itself is train where there are none.

    Raises:
        DataError: when other folders with images lie beside them.
    """
    found = _look(root)
    names = {folder.name for folder in found.folders}
    if not names & set(ROLES):
        return Counter(), {"train": root}
    others = [folder for folder in found.folders if folder.name not in ROLES]
    unknown = [folder.name for folder in others if _look(folder).images or any(_inside(folder))]
    if unknown:
        raise DataError(
            "folders of roles and other folders are mixed",
            expected=f"only {', '.join(ROLES)}",
            got=", ".join(unknown),
            where=root,
            hint="rename a validation folder to select",
        )
    beside = {"beside the role folders": len(found.images), "folder without images": len(others)}
    return found.skipped + Counter(beside), {role: root / role for role in ROLES if role in names}


def _find_images(folder: Path) -> RoleFiles:
    """Return the images of a role.

    Raises:
        DataError: when there are none, or images lie beside those of classes.
    """
    found = _look(folder)
    skipped, images, names = found.skipped, list[Path](), list[str]()
    for one in found.folders:
        held = _look(one)
        skipped += held.skipped + Counter({"in a folder inside a class's": sum(1 for _ in _inside(one))})
        skipped += Counter({"folder without images": int(not held.images)})
        images += held.images
        names += [one.name] * len(held.images)
    if found.images and images:
        raise DataError(
            "an image lies beside the class folders", got=found.images[0], hint="move it into its class's folder"
        )
    if not found.images and not images:
        raise DataError(
            "the folder holds no images of a class",
            expected=f"class folders with {', '.join(SUFFIXES)} files",
            got=f"skipped: {_words(skipped)}" if skipped else "nothing",
            where=folder,
        )
    return RoleFiles(found.images or tuple(images), tuple(names) if images else None, skipped)


def _find_classes(files: dict[Role, RoleFiles], root: Path) -> tuple[str, ...]:
    """Return the names of the classes.

    Raises:
        DataError: when a role has a class that train has no image of: a model would have an output that nothing taught.
    """
    taught = files["train"].names if "train" in files else None
    if taught is None:
        return tuple(sorted({name for found in files.values() for name in found.names or ()}))
    known = set(taught)
    for role, found in files.items():
        unknown = Counter(name for name in found.names or () if name not in known)
        if unknown:
            raise DataError(
                f"train has no image of a class of {role}",
                expected=f"classes among {listing(sorted(known))}",
                got=_words(unknown),
                where=root / role,
                hint="move images of it into train, or take its folder away",
            )
    return tuple(sorted(known))


def _words(counts: Counter[str]) -> str:
    return listing([f"{name} {count:,}" for name, count in counts.most_common()])
