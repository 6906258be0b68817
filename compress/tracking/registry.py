"""The model registry: which version is the champion."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import SQLAlchemyError

from compress.config.secrets import mask, mask_message
from compress.errors import EnvironmentFault, InputError
from compress.tracking.onnx_model import SHA256_TAG
from compress.tracking.tracker import DATABASE, database_uri

CANDIDATE, CHAMPION = "candidate", "champion"


@dataclass(frozen=True, slots=True)
class Promotion:
    """What a promotion did.

    Attributes:
        name: of the registered model.
        version: the champion now.
        previous: the champion before; None without one.
        sha256: of its file, the same as in the bundle.
        run_id: the pipeline that it comes from.
    """

    name: str
    version: int
    previous: int | None
    sha256: str
    run_id: str


def promote(name: str, *, store: Path, uri: str | None = None, version: int | None = None) -> Promotion:
    """Move the alias ``champion`` of a registered model.

    Args:
        name: of the model: the recipe's.
        store: whose database holds the registry, without ``uri``.
        uri: another MLflow server.
        version: which one; None takes the candidate, which the newest run that passed its gates moves.

    Raises:
        InputError: when there is no such store, model or version.
        EnvironmentFault: when the server does not answer.
    """
    if uri is None and not (store / DATABASE).exists():
        raise InputError("no registry", expected=f"{DATABASE} in the store", where=store, hint="run a recipe first")
    target = uri or database_uri(store)
    try:
        client = MlflowClient(tracking_uri=target, registry_uri=target)
        return _promote(client, name, version=version)
    except (MlflowException, SQLAlchemyError) as error:
        got = mask_message(str(error).split("\n")[0])
        raise EnvironmentFault("the registry does not answer", got=got, where=mask(target)) from error


def _promote(client: MlflowClient, name: str, *, version: int | None) -> Promotion:
    known = [model.name for model in client.search_registered_models()]
    if name not in known:
        raise InputError(
            "no registered model has this name",
            expected=", ".join(sorted(known)) or "none is registered yet",
            got=name,
            hint="a run registers its student when every gate of its recipe holds",
        )
    versions = {int(found.version): found for found in client.search_model_versions(f"name = '{name}'")}
    chosen = version if version is not None else _holder(client, name, CANDIDATE)
    if chosen not in versions:
        raise InputError(
            f"{name} has no such version",
            expected=", ".join(map(str, sorted(versions))),
            got="no candidate" if chosen is None else chosen,
        )
    previous = _holder(client, name, CHAMPION)
    client.set_registered_model_alias(name, CHAMPION, str(chosen))
    found = versions[chosen]
    return Promotion(name, chosen, previous, found.tags.get(SHA256_TAG, ""), found.run_id or "")


def _holder(client: MlflowClient, name: str, alias: str) -> int | None:
    with contextlib.suppress(MlflowException):  # there is none yet
        return int(client.get_model_version_by_alias(name, alias).version)
    return None
