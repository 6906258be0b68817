"""A bundle as an MLflow model that takes texts or image files, with all that turns them into inputs inside it."""

import shutil
import tempfile
import warnings
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema

from compress.errors import UsageError
from compress.tracking.servable import Takes, find_servable

SCRIPT = Path(__file__).with_name("served_model.py")
FOLDER = "artifacts/bundle"  # below the model's own, where MLflow puts what belongs to a script


def save(bundle: Path, target: Path) -> str:
    """Write a bundle as an MLflow model with the flavour ``python_function``.

    Args:
        bundle: the directory of an exported student, whose files are checked.
        target: a directory that does not exist yet.

    Returns:
        The command that serves it.

    Raises:
        UsageError: see `find_servable`; and when the target exists.
    """
    found = find_servable(bundle)
    if target.exists():
        raise UsageError("the target exists", where=target, hint="name another directory with --to, or remove it")
    write([found.primary, *found.beside], target, takes=found.takes, description=Model())
    return f"mlflow models serve --model-uri {target} --env-manager local"


def write(files: Sequence[Path], target: Path, *, takes: Takes, description: Model, more: Sequence[str] = ()) -> None:
    """Write files of a bundle as an MLflow model that answers for them.

    Args:
        files: what the server reads; nothing else that may lie beside them is taken.
        target: a directory that does not exist yet; the files are in ``FOLDER`` of it.
        takes: what is asked of it.
        description: what becomes its ``MLmodel``; the flavour and the signature are added.
        more: packages that other flavours of it need.
    """
    column = ColSpec(DataType.string, "text") if takes == "text" else ColSpec(DataType.binary, "image")
    needed = ["mlflow", "onnxruntime", "numpy", "pandas", "tokenizers" if takes == "text" else "pillow", *more]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # importing mlflow.pyfunc warns about MLflow's own type hints
        from mlflow.pyfunc import FLAVOR_NAME, save_model

        with tempfile.TemporaryDirectory() as folder:
            staged = Path(folder) / "bundle"
            staged.mkdir()
            for file in files:
                shutil.copyfile(file, staged / file.name)
            save_model(
                path=str(target),
                mlflow_model=description,
                python_model=str(SCRIPT),
                artifacts={"bundle": str(staged)},
                signature=ModelSignature(Schema([column])),
                pip_requirements=[f"{name}=={metadata.version(name)}" for name in needed],
            )
    flavor = description.flavors[FLAVOR_NAME]
    kept = flavor["artifacts"]["bundle"]
    # MLflow notes where both lay on this machine, and finds them in its own folder.
    kept["uri"], flavor["model_code_path"] = kept["path"], SCRIPT.name
    description.save(str(target / "MLmodel"))
