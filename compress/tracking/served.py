"""A bundle as an MLflow model that takes texts or image files, with all that turns them into inputs inside it."""

import json
import shutil
import tempfile
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema

from compress.errors import UsageError

SCRIPT = Path(__file__).with_name("served_model.py")


def save(bundle: Path, target: Path) -> str:
    """Write a bundle as an MLflow model with the flavour ``python_function``.

    Args:
        bundle: the directory of an exported student, whose files are checked.
        target: a directory that does not exist yet.

    Returns:
        The command that serves it.

    Raises:
        UsageError: when the student takes neither texts nor image files, when it answers one of them with more than a
            row of numbers, and when the target exists.
    """
    told, steps = (
        json.loads((bundle / f"{name}.json").read_text(encoding="utf-8")) for name in ("bundle", "preprocessing")
    )
    text = "tokenizer.json" in told["files"]
    _check_served(bundle, told, steps, text=text)
    if target.exists():
        raise UsageError("the target exists", where=target, hint="name another directory with --to, or remove it")
    column = ColSpec(DataType.string, "text") if text else ColSpec(DataType.binary, "image")
    needed = ["onnxruntime", "numpy", "pandas", "tokenizers" if text else "pillow"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # importing mlflow.pyfunc warns about MLflow's own type hints
        from mlflow.pyfunc import FLAVOR_NAME, save_model

        with tempfile.TemporaryDirectory() as folder:
            staged = Path(folder) / "bundle"
            staged.mkdir()
            for file in ("bundle.json", *told["files"]):  # and nothing else that may lie in the directory
                shutil.copyfile(bundle / file, staged / file)
            save_model(
                path=str(target),
                python_model=str(SCRIPT),
                artifacts={"bundle": str(staged)},
                signature=ModelSignature(Schema([column])),
                pip_requirements=[f"{name}=={metadata.version(name)}" for name in ("mlflow", *needed)],
            )
    model = Model.load(str(target))
    flavor = model.flavors[FLAVOR_NAME]
    kept = flavor["artifacts"]["bundle"]
    # MLflow notes where both lay on this machine, and finds them in its own folder.
    kept["uri"], flavor["model_code_path"] = kept["path"], SCRIPT.name
    model.save(str(target / "MLmodel"))
    return f"mlflow models serve --model-uri {target} --env-manager local"


def _check_served(bundle: Path, told: dict[str, Any], steps: dict[str, Any], *, text: bool) -> None:
    hint = "--for triton or plain take any model"
    if not text and "read_image.py" not in told["files"]:
        raise UsageError(
            "MLflow's layout takes texts or image files",
            expected="a bundle with tokenizer.json or read_image.py",
            where=bundle,
            hint=hint,
        )
    if not text and steps["scale"] == 1:
        raise UsageError(
            "MLflow's layout takes image files, whose pixels are whole numbers from 0 to 255",
            expected="a student that was trained on uint8 images",
            got="one that was trained on arrays of other numbers",
            where=bundle,
            hint=hint,
        )
    shape = told["signature"]["outputs"][0]["shape"]
    if len(shape) != 2:
        raise UsageError(
            "MLflow's layout answers each text or image with one row",
            expected="outputs [batch, classes]",
            got=f"{shape}, an answer for each word" if text and len(shape) == 3 else f"{shape}",
            where=bundle,
            hint=hint,
        )
