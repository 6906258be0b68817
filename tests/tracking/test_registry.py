"""The champion's alias, on a real registry."""

from pathlib import Path

import pytest

from compress.errors import InputError
from compress.tracking import database_uri
from compress.tracking.registry import Promotion, promote


@pytest.fixture
def registered(store: Path, client):
    mlflow = client(database_uri(store))
    mlflow.create_registered_model("digits")
    for number in (1, 2):
        tags = {"compress.sha256": f"sha-{number}"}
        mlflow.create_model_version("digits", source=str(store), tags=tags, await_creation_for=0)
    mlflow.set_registered_model_alias("digits", "candidate", "2")
    return store, mlflow


def test_the_candidate_becomes_the_champion(registered):
    store, mlflow = registered
    assert promote("digits", store=store) == Promotion("digits", 2, None, "sha-2", "")
    assert int(mlflow.get_model_version_by_alias("digits", "champion").version) == 2


def test_an_older_version_can_be_the_champion_again(registered):
    store, mlflow = registered
    promote("digits", store=store)
    assert promote("digits", store=store, version=1) == Promotion("digits", 1, 2, "sha-1", "")
    assert int(mlflow.get_model_version_by_alias("digits", "champion").version) == 1
    assert int(mlflow.get_model_version_by_alias("digits", "candidate").version) == 2


def test_what_is_not_there_is_told(registered, tmp_path):
    store, mlflow = registered
    with pytest.raises(InputError, match=r"(?s)no registered model.*digits.*digit"):
        promote("digit", store=store)
    with pytest.raises(InputError, match=r"(?s)no such version.*1, 2.*7"):
        promote("digits", store=store, version=7)
    mlflow.delete_registered_model_alias("digits", "candidate")
    with pytest.raises(InputError, match="no candidate"):
        promote("digits", store=store)
    with pytest.raises(InputError, match="no registry"):
        promote("digits", store=tmp_path / "elsewhere")
