"""What a run writes for others holds no secret, no home directory, no user and no host."""

import logging
import platform
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import text_zoo
import torch
from mlflow import MlflowClient
from tiny_pipeline import BRIEF

from compress.benchmark.compare import PRESETS
from compress.errors import EnvironmentFault
from compress.pipeline.plan import plan
from compress.pipeline.run import Options, run
from compress.progress import Reporter
from compress.recipe import Recipe
from compress.tracking import database_uri
from compress.tracking.registry import promote

USER, HOST = "planted-user", "planted-host"
RECIPE = """
schema: 1
name: published
data: {source: {numpy: {archive: data.npz}}, normalize: identity}
teacher: {model: {file: {path: my_model.py}}, weights: teacher.safetensors}
student: {mlp: {widths: [8]}}
stages:
  - distill: {epochs: 1}
  - export: {variants: [fp32]}
benchmark: {preset: quick, profiles: [{}, {launcher: [no-such-word, planted-user@box]}]}
gates: {max_size_mb: 1}
"""
MODEL = """
from torch import nn
def build(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A recipe in the home directory of somebody whose names are told apart from everything else."""
    import numpy as np
    import torch
    from safetensors.torch import save_file
    from sklearn.datasets import load_digits

    home = tmp_path / "home" / USER
    made = home / "project"
    made.mkdir(parents=True)
    for name in ("USER", "LOGNAME", "USERNAME"):
        monkeypatch.setenv(name, USER)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(socket, "gethostname", lambda: HOST)
    monkeypatch.setattr(platform, "node", lambda: HOST)
    monkeypatch.setitem(PRESETS, "quick", BRIEF)
    monkeypatch.chdir(made)
    images, labels = load_digits(return_X_y=True)
    pixels = (images * 15).astype(np.uint8).reshape(-1, 1, 8, 8)
    np.savez(made / "data.npz", train_inputs=pixels, train_labels=labels)
    means = torch.tensor(np.stack([pixels[labels == digit].mean(0).ravel() / 255 for digit in range(10)]))
    nearest = {"1.weight": means.float(), "1.bias": -means.float().square().sum(1) / 2}
    save_file(nearest, made / "teacher.safetensors")
    (made / "my_model.py").write_text(MODEL)
    (made / "recipe.yaml").write_text(RECIPE)
    return made


def found(folder: Path, *words: str) -> Iterator[tuple[str, str]]:
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            yield from ((str(path.relative_to(folder)), word) for word in words if word.encode() in content)


def options(project: Path, store: Path, **fields) -> Options:
    return Options(
        store=store, directory=project, threads=1, reporter=Reporter(quiet=True), code=[project / "my_model.py"],
        allow=["no-such-word planted-user@box", "http://127.0.0.1:9/"], **fields,
    )  # fmt: skip


def test_no_file_of_a_run_names_people_or_their_machine(project, tmp_path):
    store = tmp_path / "store"
    outcome = run(Recipe.load(project / "recipe.yaml"), options(project, store))
    assert outcome.report.benchmark is not None
    names = {path.name for path in store.rglob("*")}
    assert {"report.html", "bundle.json", "mlflow.db", "MLmodel", "events.ndjson"} <= names
    assert list(found(store, USER, HOST, str(project.parent))) == []
    assert list(found(outcome.run_dir, str(store), str(tmp_path))) == []
    assert list(found(store / "mlflow-artifacts", str(store))) == []
    how = outcome.report.execution
    words = f"compressor run recipe.yaml --threads 1 --device {how.device} --precision {how.precision}"
    assert outcome.report.command == f"{words} --code my_model.py --allow 'no-such-word box'"
    there = Recipe.parse(outcome.report.recipe_yaml, origin="there", directory=project)
    assert there.resolve(code=[project / "my_model.py"]).data == Recipe.load(project / "recipe.yaml").data


def test_no_secret_of_the_tracking_server_is_written_or_told(project, tmp_path, caplog, capsys):
    caplog.set_level(logging.DEBUG)
    store, secrets = tmp_path / "store", ("user-4711", "pass-4711", "token-4711")
    uri = "http://user-4711:pass-4711@127.0.0.1:9/?token=token-4711"
    override = f"tracking.uri={uri}"
    recipe = Recipe.load(project / "recipe.yaml", overrides=[override])
    assert recipe.tracking.uri == uri
    plan(recipe, options(project, store))
    outcome = run(recipe, options(project, store, until_stage="teacher"))
    assert "the tracking server is down" in caplog.text  # so what is sent lies there as it will be sent
    assert list((store / "tracking").rglob("recipe.yaml"))
    assert list((store / "notes").iterdir())
    for text in (recipe.to_yaml(), outcome.report.recipe_yaml, str(recipe.parameters())):
        assert "4711" not in text
    with pytest.raises(EnvironmentFault) as required:
        run(recipe.model_copy(update={"tracking": recipe.tracking.model_copy(update={"required": True})}),
            options(project, store, until_stage="teacher"))  # fmt: skip
    with pytest.raises(EnvironmentFault) as promoted:
        promote("published", store=store, uri=uri)
    with pytest.raises(ValueError, match="unknown key") as mistyped:
        Recipe.load(project / "recipe.yaml", overrides=[override.replace("uri", "urii")])
    printed = capsys.readouterr()
    told = [str(error.value) for error in (required, promoted, mistyped)]
    for text in (*told, caplog.text, printed.out, printed.err):
        assert not [secret for secret in secrets if secret in text], text
    assert list(found(store, *secrets)) == []
    assert recipe.sha256 == Recipe.load(project / "recipe.yaml", overrides=[override.replace("4711", "0815")]).sha256


REVIEWS = """
schema: 1
name: reviews
data:
  source: {table: {path: reviews.csv, text: text, label: label}}
  split: {test: 40, select: 40, calibration: 4}
  tokenize: {max_length: 24}
teacher:
  model: {huggingface: {path: bert}}
  train: {epochs: 4, batch_size: 20, optimizer: adamw, learning_rate: 0.003}
student: {huggingface: {path: bert}}
stages:
  - distill: {epochs: 1, batch_size: 100, learning_rate: 0.000001}   # it learns nothing, and differs
"""


@pytest.mark.slow
def test_a_run_that_quotes_nothing_holds_no_text_of_its_data_and_is_the_same_run(tmp_path):
    torch.manual_seed(0)
    text_zoo.make_bert(tmp_path / "bert", num_hidden_layers=1)
    text_zoo.write_reviews(tmp_path / "reviews.csv", count=300)

    def ask(*overrides: str):
        how = Options(
            store=tmp_path / "store",
            threads=1,
            reporter=Reporter(quiet=True),
            until_stage="distill",
            force_teacher=True,
        )
        return run(Recipe.parse(REVIEWS, origin="recipe.yaml", directory=tmp_path, overrides=overrides), how)

    quoting = ask()
    sentences = [example.source for example in quoting.report.texts.examples]
    assert max(len(sentence.split()) for sentence in sentences) > 10
    lines = (tmp_path / "reviews.csv").read_text().splitlines()[1:]
    texts = [line.rpartition(",")[0] for line in lines if len(line.split()) > 5]
    assert {"report.json", "report.html"} == {name for name, _ in found(quoting.run_dir, *texts)}
    private = ask("data.quote=false")
    assert private.run_dir == quoting.run_dir
    assert {row.reused for row in private.report.stages} == {True}
    assert (private.run_dir / "report.html").exists()
    assert list(found(private.run_dir, *texts)) == []
    client = MlflowClient(database_uri(tmp_path / "store"))
    tracked = client.search_runs(
        [experiment.experiment_id for experiment in client.search_experiments()],
        "tags.`compress.role` = 'pipeline'",
        order_by=["attributes.start_time ASC"],
    )
    kept = [Path(client.download_artifacts(entry.info.run_id, "")) for entry in tracked]
    assert [{name for name, _ in found(folder, *texts)} for folder in kept] == [{"report.json", "report.html"}, set()]
    assert (kept[1] / "report.html").exists()
