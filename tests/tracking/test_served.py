"""What a run registers is asked as a bundle is: with sentences or image files, also over HTTP."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import mlflow
import onnx
import pandas as pd
import pytest
from bundle_zoo import answers, image_bundle, text_bundle

from compress.export.manifest import Manifest
from compress.tracking import Tracker, database_uri
from compress.tracking.registry import promote
from compress.tracking.servable import find_servable

SENTENCES = ["bad good", "good bad"]
PATIENCE_S = 120


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    return text_bundle(tmp_path_factory.mktemp("texts") / "bundle")


def register(bundle: Path, store: Path, name: str) -> str:
    """Register a bundle's primary file as a run does; return its digest."""
    found = find_servable(bundle)
    with Tracker.open(store) as tracker, tracker.run(name, experiment=name) as run:
        return run.register_onnx(
            found.primary, data=found.beside, takes=found.takes, name=name, inputs=[], outputs=[], example={}
        )


def test_a_registered_student_takes_texts_and_is_the_very_file(store, client, texts):
    digest = register(texts, store, "spam")
    assert digest == Manifest.read(texts).sha256
    source = client(database_uri(store)).get_model_version_by_alias("spam", "candidate").source
    # Before MLflow imports one of them, and leaves its bytecode beside it.
    files = [path for path in Path(source.removeprefix("file://")).rglob("*") if path.is_file()]
    found = mlflow.pyfunc.load_model(source).predict(pd.DataFrame({"text": SENTENCES}))
    expected = answers(texts, *SENTENCES)
    assert [*found["label"]] == [label for label, _ in expected]
    assert [*found["probability"]] == pytest.approx([chance for _, chance in expected])
    assert mlflow.onnx.load_model(source) == onnx.load(texts / Manifest.read(texts).primary)
    assert sum(path.suffix == ".onnx" for path in files) == 1
    places = [str(place).encode() for place in (store.parent, texts.parent, Path(__file__).parents[2])]
    assert [path for path in files if any(place in path.read_bytes() for place in places)] == []


def post(url: str, body: dict) -> dict:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def test_what_has_no_texts_or_images_of_8_bits_is_served_tensors(tmp_path):
    from compress.errors import UsageError

    bundle = image_bundle(tmp_path / "bundle")
    assert find_servable(bundle).takes == "image"
    (bundle / "preprocessing.json").write_text('{"scale": 1}')
    with pytest.raises(UsageError, match="trained on uint8 images"):
        find_servable(bundle)


@pytest.mark.slow
def test_mlflow_serves_the_champion_which_answers_sentences(store, texts):
    register(texts, store, "spam")
    promote("spam", store=store)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["models", "serve", "--model-uri", "models:/spam@champion", "--env-manager", "local", "--port", str(port)]
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", *words],
        env=os.environ | {"MLFLOW_TRACKING_URI": database_uri(store)},
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            assert process.poll() is None
            assert time.monotonic() < deadline, "waited in vain"
            try:
                found = post(f"http://127.0.0.1:{port}/invocations", {"inputs": {"text": SENTENCES}})
                break
            except urllib.error.URLError:
                time.sleep(0.2)
    finally:
        os.killpg(process.pid, 9)
        process.wait()
    expected = [{"label": label, "probability": pytest.approx(chance)} for label, chance in answers(texts, *SENTENCES)]
    assert found == {"predictions": expected}
