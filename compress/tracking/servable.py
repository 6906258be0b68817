"""Which bundles MLflow's server answers sentences or image files with, and what of a bundle it reads for that."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from compress.errors import UsageError

Takes = Literal["text", "image"]
READ = ("bundle.json", "labels.json", "preprocessing.json", "tokenizer.json", "read_image.py", "README.md")
HINT = "--for triton or plain take any model"


@dataclass(frozen=True, slots=True)
class Servable:
    """A bundle that can be served.

    Attributes:
        takes: texts, or the bytes of image files.
        primary: the model's file.
        beside: its weights where they lie apart, what turns raw data into inputs, and the card.
    """

    takes: Takes
    primary: Path
    beside: tuple[Path, ...]


def find_servable(bundle: Path) -> Servable:
    """Return what of a bundle is served.

    Args:
        bundle: the directory of an exported student, whose files are checked.

    Raises:
        UsageError: when the student is a program, takes neither texts nor image files, or answers one of them with more
            than a row of numbers.
    """
    told, steps = (
        json.loads((bundle / f"{name}.json").read_text(encoding="utf-8")) for name in ("bundle", "preprocessing")
    )
    takes: Takes = "text" if "tokenizer.json" in told["files"] else "image"
    _check_graph(bundle, told)
    _check_inputs(bundle, told, steps, takes=takes)
    _check_outputs(bundle, told, takes=takes)
    primary = bundle / told["primary"]
    held = {"bundle.json", *told["files"]}
    beside = [bundle / name for name in (f"{primary.name}.data", *READ) if name in held]
    return Servable(takes, primary, tuple(beside))


def _check_graph(bundle: Path, told: dict[str, Any]) -> None:
    if not told["primary"].endswith(".onnx"):
        raise UsageError(
            "MLflow's layout takes a model of one graph", got=told["primary"], where=bundle, hint="--for plain"
        )


def _check_inputs(bundle: Path, told: dict[str, Any], steps: dict[str, Any], *, takes: Takes) -> None:
    if takes == "image" and "read_image.py" not in told["files"]:
        raise UsageError(
            "MLflow's layout takes texts or image files",
            expected="a bundle with tokenizer.json or read_image.py",
            where=bundle,
            hint=HINT,
        )
    if takes == "image" and steps["scale"] == 1:
        raise UsageError(
            "MLflow's layout takes image files, whose pixels are whole numbers from 0 to 255",
            expected="a student that was trained on uint8 images",
            got="one that was trained on arrays of other numbers",
            where=bundle,
            hint=HINT,
        )


def _check_outputs(bundle: Path, told: dict[str, Any], *, takes: Takes) -> None:
    shape = told["signature"]["outputs"][0]["shape"]
    if len(shape) != 2:
        raise UsageError(
            "MLflow's layout answers each text or image with one row",
            expected="outputs [batch, classes]",
            got=f"{shape}, an answer for each word" if takes == "text" and len(shape) == 3 else f"{shape}",
            where=bundle,
            hint=HINT,
        )
