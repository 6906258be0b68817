"""What disks and people do to a store."""

import random
import shutil
from pathlib import Path


def spoil_one(root: Path, draw: random.Random) -> None:
    """One random thing that happens to a store, but not to the database of MLflow, which has no checksums."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.name.startswith("mlflow.db"))
    folders = sorted(path for path in (root / "artifacts").iterdir())
    file, other = draw.choice(files), draw.choice(files)
    what = draw.choice(("flip", "flip", "digit", "cut", "grow", "remove", "swap files", "swap folders", "copy folder"))
    content = bytearray(file.read_bytes())
    if what == "flip" and content:
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        file.write_bytes(content)
    elif what == "digit":
        at = [index for index, byte in enumerate(content) if chr(byte).isdigit()]
        if at:
            content[draw.choice(at)] = ord(draw.choice("0123456789"))
            file.write_bytes(content)
    elif what == "cut":
        file.write_bytes(content[: draw.randrange(len(content) + 1)])
    elif what == "grow":
        file.write_bytes(content + draw.randbytes(3))
    elif what == "remove":
        file.unlink()
    elif what == "swap files":
        theirs = other.read_bytes()
        other.write_bytes(content)
        file.write_bytes(theirs)
    elif what == "swap folders":
        one, two = draw.sample(folders, 2)
        one.rename(root / "between")
        two.rename(one)
        (root / "between").rename(two)
    elif what == "copy folder":
        one, two = draw.sample(folders, 2)
        shutil.rmtree(two)
        shutil.copytree(one, two)
