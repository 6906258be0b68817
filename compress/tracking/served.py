"""A bundle as an MLflow model that takes texts or image files, with all that turns them into inputs inside it."""

import warnings
from collections.abc import Collection
from importlib import metadata
from pathlib import Path

from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema

from compress.errors import UsageError

SCRIPT = Path(__file__).with_name("served_model.py")


def save(bundle: Path, target: Path, *, files: Collection[str]) -> str:
    """Write a bundle as an MLflow model with the flavour ``python_function``.

    Args:
        bundle: the directory of an exported student, whose files are checked.
        target: a directory that does not exist yet.
        files: of the bundle.

    Returns:
        The command that serves it.

    Raises:
        UsageError: when the student takes neither texts nor image files, or the target exists.
    """
    text = "tokenizer.json" in files
    if not text and "read_image.py" not in files:
        raise UsageError(
            "MLflow's layout takes texts or image files",
            expected="a bundle with tokenizer.json or read_image.py",
            where=bundle,
            hint="--for triton or plain take any model",
        )
    if target.exists():
        raise UsageError("the target exists", where=target, hint="name another directory with --to, or remove it")
    column = ColSpec(DataType.string, "text") if text else ColSpec(DataType.binary, "image")
    needed = ["onnxruntime", "numpy", "pandas", "tokenizers" if text else "pillow"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # importing mlflow.pyfunc warns about MLflow's own type hints
        from mlflow.pyfunc import save_model

        save_model(
            path=str(target),
            python_model=str(SCRIPT),
            artifacts={"bundle": str(bundle.absolute())},
            signature=ModelSignature(Schema([column])),
            pip_requirements=[f"{name}=={metadata.version(name)}" for name in ("mlflow", *needed)],
        )
    return f"mlflow models serve --model-uri {target} --env-manager local"
