"""An exported ONNX file as a registered MLflow model whose data file is the exported file, byte for byte.

What takes texts or image files is two flavours of one file: a function of these, which brings tokenizer, preprocessing
and labels, and the graph of tensors. All else is a graph alone: ``mlflow.onnx.save_model`` serialises it again, which
changes its bytes and so its sha256, so the model directory it writes is kept and the data file in it replaced by the
original, beside which its external data go.
"""

import hashlib
import shutil
import tempfile
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from mlflow.entities import LoggedModel, LoggedModelOutput
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.onnx import FLAVOR_NAME, save_model
from mlflow.tracking import MlflowClient
from mlflow.types import Schema, TensorSpec

from compress.tracking import served
from compress.tracking.events import Register

SHA256_TAG = "compress.sha256"
MOST_DESCRIBED = 5000  # characters
PROVIDERS = ["CPUExecutionProvider"]


def register(
    client: MlflowClient, run_id: str, path: Path, example: Path, *data: Path, event: Register, is_local: bool
) -> None:
    """Log the file as a model of the run, register it as a version, and move the alias to that version.

    The same bytes are registered once: a file that is a version already, of an attempt that was interrupted or of
    another run, only gets the alias.

    Args:
        client: for tracking and registry.
        run_id: the run that exported the file.
        path: the ONNX file.
        example: .npz with one batch of inputs.
        data: the files that hold its weights, if they are not in it, and those that its server reads.
        event: name, inputs, outputs, tags, alias and sha256, as `Run.register_onnx` writes them.
        is_local: whether the store is a local database: MLflow resolves ``models:/`` sources through its
            global tracking URI there, so the artifact location is given instead.
    """
    name = event.name
    versions = [
        version
        for version in client.search_model_versions(f"name = '{name}'")
        if version.tags.get(SHA256_TAG) == event.sha256
    ]
    if not versions:
        model = _log_model(client, run_id, path, example, *data, event=event)
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        versions = [
            client.create_model_version(
                name,
                source=model.artifact_location if is_local else f"models:/{model.model_id}",
                run_id=run_id,
                model_id=model.model_id,
                tags=event.tags | {SHA256_TAG: event.sha256},
                description=_fit(event.description) or None,
                await_creation_for=0,
            )
        ]
    client.set_registered_model_alias(name, event.alias, versions[0].version)
    client.set_tag(run_id, SHA256_TAG, event.sha256)


def _fit(text: str) -> str:
    """Return a description of at most as many characters as MLflow keeps, cut where a section ends."""
    if len(text) <= MOST_DESCRIBED:
        return text
    return text[: text.rfind("\n## ", 0, MOST_DESCRIBED)].rstrip() + "\n"


def _log_model(
    client: MlflowClient, run_id: str, path: Path, example: Path, *data: Path, event: Register
) -> LoggedModel:
    experiment_id = client.get_run(run_id).info.experiment_id
    model = client.create_logged_model(
        experiment_id, name=event.name, source_run_id=run_id, tags={SHA256_TAG: event.sha256}, model_type="onnx"
    )
    description = Model(  # without the place it lies in, which the server knows: the file goes where the model goes
        artifact_path=event.name, model_uuid=model.model_id, run_id=run_id, model_id=model.model_id
    )
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "model"
        _write_directory(directory, path, example, *data, description=description, event=event)
        client.log_model_artifacts(model.model_id, str(directory))
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    return client.finalize_logged_model(model.model_id, "READY")


def _write_directory(
    directory: Path, path: Path, example: Path, *data: Path, description: Model, event: Register
) -> None:
    if event.takes:
        served.write([path, *data], directory, takes=event.takes, description=description, more=["onnx"])
        kept = f"{served.FOLDER}/{path.name}"
        description.add_flavor(
            FLAVOR_NAME, onnx_version=onnx.__version__, data=kept, providers=PROVIDERS, onnx_session_options=None
        )
        description.save(str(directory / "MLmodel"))
        _check_digest(directory / kept, event)
        return
    signature = ModelSignature(_schema(event.inputs), _schema(event.outputs))
    if path.suffix != ".onnx":  # a program: MLflow has no flavour that runs one, so its files are kept as they are
        directory.mkdir()
        description.signature = signature
        _copy(path, *data, directory=directory, description=description)
        return
    with np.load(example, allow_pickle=False) as stored:
        inputs = {name: stored[name] for name in stored.files}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # importing mlflow.pyfunc warns about MLflow's own type hints
        save_model(
            onnx.load(path, load_external_data=False),  # the files are copied below
            directory,
            mlflow_model=description,
            signature=signature,
            input_example=inputs,
            pip_requirements=[
                f"{package}=={metadata.version(package)}" for package in ("onnx", "onnxruntime", "numpy")
            ],
            onnx_execution_providers=PROVIDERS,
            save_as_external_data=False,
        )
    _check_digest(_copy(path, *data, directory=directory, description=description), event)


def _check_digest(model: Path, event: Register) -> None:
    with model.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == event.sha256


def _copy(path: Path, *data: Path, directory: Path, description: Model) -> Path:
    """Put a model's files into MLflow's directory, and describe them; return the copy of the first."""
    model = directory / f"model{path.suffix}"
    shutil.copyfile(path, model)
    for file in data:  # by the names that the graph calls them
        shutil.copyfile(file, directory / file.name)
    description.model_size_bytes = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
    description.save(str(directory / "MLmodel"))
    return model


def _schema(tensors: list[list[Any]]) -> Schema:
    """From [name, dtype, shape], where a dynamic axis is its name."""
    return Schema(
        [
            TensorSpec(np.dtype(dtype), tuple(axis if isinstance(axis, int) else -1 for axis in shape), name)
            for name, dtype, shape in tensors
        ]
    )
