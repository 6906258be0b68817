"""A folder of image files, one sub-folder per class; what is no image of a class is skipped, and counted."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compress.data.picture import Picture, check_depth, read_picture
from compress.data.read_image import Steps
from compress.data.samples import ROLES, Role, Samples
from compress.data.source import Raw
from compress.errors import DataError, listing

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


def read_folder(root: Path, steps: Steps) -> Raw:
    """Return the roles of ``root/role/class/*`` and the class names; ``root/class/*`` is all train.

    A train or calibration folder that holds images and no class folders is unlabelled. Classes are those that train has
    images of, in the order of their names; those of all roles where train is unlabelled.

    Args:
        root: the folder.
        steps: what is done to every image.

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
    pictures = {role: [read_picture(path, steps) for path in found.images] for role, found in files.items()}
    deep = [picture for read in pictures.values() for picture in read if picture.brightest is not None]
    check_depth(deep)
    notes = [f"{len(deep):,} images of 16 bits are scaled to 8"] if deep else []
    if skipped:
        notes.append(f"skipped in {root.name}: {_words(skipped)}")
    roles: dict[Role, Samples] = {role: _samples(pictures[role], found.names, classes) for role, found in files.items()}
    return Raw(roles, classes, tuple(notes))


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


def _samples(pictures: list[Picture], names: tuple[str, ...] | None, classes: tuple[str, ...]) -> Samples:
    number = {name: index for index, name in enumerate(classes)}
    labels = None if names is None else np.array([number[name] for name in names], np.int64)
    return Samples(np.stack([picture.pixels for picture in pictures]), labels)


def _words(counts: Counter[str]) -> str:
    return listing([f"{name} {count:,}" for name, count in counts.most_common()])
