"""Layouts of a bundle, each loaded by what it is for where that runs here: the same bytes, the same answers."""

import base64
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import screen
from bundle_zoo import answers, bundle_of, image_bundle, model, text_bundle
from onnx import TensorProto
from PIL import Image
from typed import compressor

from compress.cli.bundle import tell_package
from compress.errors import ArtifactError, UsageError
from compress.export.manifest import Manifest
from compress.export.package import package
from compress.export.session import Session
from compress.tasks.signature import Tensor

LAYOUTS = ("plain", "triton", "transformers.js", "optimum")


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    return text_bundle(tmp_path_factory.mktemp("texts") / "bundle")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return image_bundle(tmp_path_factory.mktemp("images") / "bundle")


def edited(bundle: Path, target: Path, name: str, **fields: Any) -> Path:
    """Return a copy of a bundle where one of its JSON files says something else."""
    shutil.copytree(bundle, target)
    path = target / f"{name}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return target


def answering_words(bundle: Path, target: Path) -> Path:
    """Return a copy of a bundle that says that it answers each word."""
    signature = Manifest.read(bundle).signature
    (logits,) = signature["outputs"]
    words = [logits | {"shape": ["batch", "length", 2]}]
    return edited(bundle, target, "bundle", signature=signature | {"outputs": words})


def exactness(loaded) -> str | None:
    """What the session behind a loaded MLflow model was told about int8 products; None: nothing."""
    options = loaded.unwrap_python_model().session.get_session_options()
    try:
        return options.get_session_config_entry("session.x64quantprecision")
    except RuntimeError:
        return None


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def schema():
    """Triton's own schema, from the package of its client, without all that this package imports."""
    spec = importlib.util.find_spec("tritonclient")
    if spec is None or not spec.submodule_search_locations:
        (pytest.fail if os.environ.get("COMPRESS_NEEDS_TRITON") else pytest.skip)("pip install --no-deps tritonclient")
    path = Path(next(iter(spec.submodule_search_locations))) / "grpc" / "model_config_pb2.py"
    found = importlib.util.spec_from_file_location("model_config_pb2", path)
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_triton_gets_the_file_in_a_numbered_folder_and_what_it_takes(texts, tmp_path):
    told = package(texts, tmp_path / "repository", layout="triton", name="spam")
    folder = tmp_path / "repository" / "spam"
    assert digest(folder / "1" / "model.onnx") == Manifest.read(texts).sha256
    assert (folder / "config.pbtxt").read_text().splitlines() == [
        'name: "spam"',
        'platform: "onnxruntime_onnx"',
        "max_batch_size: 64",
        'input { name: "input_ids" data_type: TYPE_INT64 dims: [ -1 ] }',
        'output { name: "logits" data_type: TYPE_FP32 dims: [ 2 ] label_filename: "labels.txt" }',
        "dynamic_batching { }",
    ]
    assert (folder / "labels.txt").read_text() == "first\nsecond\n"
    assert Session(folder / "1" / "model.onnx")(np.array([[1, 7], [7, 1]]))[0].argmax(1).tolist() == [1, 0]
    assert told.splitlines()[0] == f"tritonserver --model-repository {tmp_path / 'repository'}"
    assert "preprocessing is the caller's part" in told
    assert "Triton cannot set session.x64quantprecision" in told
    floats = edited(texts, tmp_path / "floats", "bundle", primary="fp32.onnx")
    assert "x64quantprecision" not in package(floats, tmp_path / "other", layout="triton", name="spam")


def test_triton_gets_no_labels_of_words_since_it_numbers_all_values_of_a_sample(texts, tmp_path):
    words = answering_words(texts, tmp_path / "words")
    package(words, tmp_path / "repository", layout="triton", name="names")
    assert "label_filename" not in (tmp_path / "repository" / "names" / "config.pbtxt").read_text()
    assert not (tmp_path / "repository" / "names" / "labels.txt").exists()


def test_its_configuration_is_of_tritons_schema(images, tmp_path):
    from google.protobuf import text_format

    protocol = schema()
    package(images, tmp_path / "repository", layout="triton", name="digits")
    text = (tmp_path / "repository" / "digits" / "config.pbtxt").read_text()
    found = text_format.Parse(text, protocol.ModelConfig())
    assert (found.name, found.platform, found.max_batch_size) == ("digits", "onnxruntime_onnx", 64)
    assert [(entry.name, [*entry.dims]) for entry in found.input] == [("image", [1, 1, 2])]
    assert found.input[0].data_type == protocol.TYPE_FP32
    assert [(entry.name, entry.label_filename) for entry in found.output] == [("logits", "labels.txt")]
    assert found.HasField("dynamic_batching")


@pytest.mark.parametrize(
    ("layout", "models"),
    [
        ("transformers.js", {"onnx/model.onnx": "fp32", "onnx/model_quantized.onnx": "int8-x86"}),
        ("optimum", {"model.onnx": "int8-x86"}),
    ],
)
def test_hugging_faces_libraries_get_configuration_tokenizer_and_files_by_their_names(texts, tmp_path, layout, models):
    from transformers import PreTrainedTokenizerFast

    package(texts, tmp_path / "out", layout=layout, name="spam")
    found = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert found == {"config.json", "tokenizer.json", "tokenizer_config.json", *models}
    for name, variant in models.items():
        assert digest(tmp_path / "out" / name) == digest(texts / f"{variant}.onnx")
    assert PreTrainedTokenizerFast.from_pretrained(tmp_path / "out")("bad good")["input_ids"] == [1, 7]


def test_what_loads_it_names_the_primary_file_and_the_task(texts, tmp_path):
    def told(bundle: Path, layout: Any) -> str:
        return package(bundle, tmp_path / f"{bundle.name}-{layout}", layout=layout, name="spam")

    floats = edited(texts, tmp_path / "floats", "bundle", primary="fp32.onnx")
    words = answering_words(texts, tmp_path / "words")
    assert told(texts, "transformers.js").endswith('("text-classification", "bundle-transformers.js", { dtype: "q8" })')
    assert '{ dtype: "fp32" }' in told(floats, "transformers.js")
    assert 'pipeline("token-classification"' in told(words, "transformers.js")
    assert told(texts, "optimum").startswith("ORTModelForSequenceClassification.")
    assert told(words, "optimum").startswith("ORTModelForTokenClassification.")


def test_transformers_js_needs_to_be_told_how_images_are_read(tmp_path):
    tensor = Tensor(name="image", dtype="float32", shape=("batch", 1, 1, 2))
    graph = model("image", TensorProto.FLOAT, ["batch", 1, 1, 2], "Flatten")
    rows = np.random.default_rng(0).uniform(-2, 2, (32, 1, 1, 2)).astype(np.float32)
    told = {"config.json": "{}", "preprocessor_config.json": "{}"}
    for names, refused in ((["config.json"], True), ([*told], False)):
        files = {name: told[name] for name in names}
        bundle = bundle_of(tmp_path / f"bundle{len(names)}", graph, tensor, rows, files, scale=1 / 255)
        target = tmp_path / f"out{len(names)}"
        if refused:
            with pytest.raises(UsageError, match="preprocessor_config.json"):
                package(bundle, target, layout="transformers.js", name="digits")
            assert not target.exists()
        else:
            assert '"image-classification"' in package(bundle, target, layout="transformers.js", name="digits")


def test_mlflow_answers_texts_as_the_bundle_does(texts, tmp_path):
    import mlflow

    from compress.tracking.served import save

    told = save(texts, tmp_path / "model")
    assert told == f"mlflow models serve --model-uri {tmp_path / 'model'} --env-manager local"
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    found = loaded.predict(pd.DataFrame({"text": ["bad good", "good bad"]}))
    expected = answers(texts, "bad good", "good bad")
    assert list(found["label"]) == [label for label, _ in expected] == ["second", "first"]
    assert list(found["probability"]) == pytest.approx([chance for _, chance in expected])


def test_mlflow_answers_the_bytes_of_image_files_as_the_bundle_does(images, tmp_path):
    import mlflow

    from compress.tracking.served import save

    paths = []
    for name, pixels in (("left", [[200, 10]]), ("right", [[10, 200]])):
        paths.append(tmp_path / f"{name}.png")
        Image.fromarray(np.array(pixels, np.uint8)).save(paths[-1])
    save(images, tmp_path / "model")
    from mlflow.pyfunc import scoring_server  # warns, unless `save` has imported what it needs

    loaded = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    found = loaded.predict(pd.DataFrame({"image": [path.read_bytes() for path in paths]}))
    expected = answers(images, *paths)
    assert list(found["label"]) == [label for label, _ in expected] == ["first", "second"]
    assert list(found["probability"]) == pytest.approx([chance for _, chance in expected])
    records = [{"image": base64.b64encode(path.read_bytes()).decode()} for path in paths]  # as the docs send them
    body, schema = json.dumps({"dataframe_records": records}), loaded.metadata.get_input_schema()
    answered = scoring_server.invocations(body, "application/json", loaded, schema)
    assert [answer["label"] for answer in json.loads(answered.response)["predictions"]] == ["first", "second"]


def test_mlflows_model_holds_the_bundles_files_alone_and_no_path_of_where_it_was_made(texts, tmp_path, monkeypatch):
    from compress.tracking.served import SCRIPT, save

    bundle = tmp_path / "made" / "bundle"
    shutil.copytree(texts, bundle)
    (bundle / "notes.txt").write_text("mine")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "made"))
    save(bundle, tmp_path / "model")
    files = [path for path in (tmp_path / "model").rglob("*") if path.is_file()]
    held = {path.name for path in files if path.parent.name == "bundle"}
    assert held == {"bundle.json", "int8-x86.onnx", "labels.json", "preprocessing.json", "tokenizer.json"}
    here = [str(tmp_path).encode(), str(SCRIPT.parent).encode()]
    assert [path for path in files if any(place in path.read_bytes() for place in here)] == []
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["bundle"]


@pytest.mark.parametrize(
    ("flags", "layers", "expected"),
    [("ssse3 avx2", 1, "1"), ("ssse3 avx2", 2, None), ("ssse3 avx512_vnni", 1, None), ("asimd", 1, None)],
)
def test_mlflow_multiplies_int8_without_saturation_where_the_file_can_be_loaded_so(tmp_path, flags, layers, expected):
    import mlflow

    from compress.tracking.served import save

    tensor = Tensor(name="image", dtype="float32", shape=("batch", 1, 1, 2))
    graph = model("image", TensorProto.FLOAT, ["batch", 1, 1, 2], "Flatten", layers=layers)  # of one weight
    rows = np.random.default_rng(0).uniform(-2, 2, (32, 1, 1, 2)).astype(np.float32)
    save(bundle_of(tmp_path / "bundle", graph, tensor, rows, {}, scale=1 / 255), tmp_path / "model")
    (script,) = (tmp_path / "model").rglob("served_model.py")
    (tmp_path / "cpuinfo").write_text(f"flags : {flags}\n")
    script.write_text(script.read_text().replace("/proc/cpuinfo", str(tmp_path / "cpuinfo")))
    assert exactness(mlflow.pyfunc.load_model(str(tmp_path / "model"))) == expected


def test_mlflow_refuses_what_it_would_answer_with_nonsense(texts, images, tmp_path):
    from compress.tracking.served import save

    with pytest.raises(UsageError, match="an answer for each word"):
        save(answering_words(texts, tmp_path / "words"), tmp_path / "model")
    with pytest.raises(UsageError, match="trained on uint8 images"):
        save(edited(images, tmp_path / "floats", "preprocessing", scale=1), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_mlflow_takes_two_texts_where_the_model_does_and_no_image_files_where_it_saw_numbers(texts, images, tmp_path):
    import mlflow

    from compress.tracking.served import save

    pairs = edited(texts, tmp_path / "pairs", "preprocessing", texts=2)
    save(pairs, tmp_path / "model")
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    found = loaded.predict(pd.DataFrame({"text": ["bad\tgood", "good\tbad"]}))
    assert [*found["label"]] == [label for label, _ in answers(pairs, "bad\tgood", "good\tbad")] == ["second", "first"]
    for text in ("bad good", "bad\tgood\tbad"):
        with pytest.raises(Exception, match="expected two texts with a tab in between"):
            loaded.predict(pd.DataFrame({"text": [text]}))

    save(images, tmp_path / "other")
    (told,) = (tmp_path / "other").rglob("preprocessing.json")
    told.write_text(json.dumps(json.loads(told.read_text()) | {"scale": 1}))
    with pytest.raises(Exception, match="expected numbers as in training"):
        mlflow.pyfunc.load_model(str(tmp_path / "other")).predict(pd.DataFrame({"image": [b""]}))


@pytest.mark.slow
def test_the_file_becomes_an_ort_file_as_the_docs_say_which_computes_the_same(texts, tmp_path):
    package(texts, tmp_path / "bundle", layout="plain", name="spam")
    docs = (Path(__file__).parents[2] / "docs" / "deploy.md").read_text()
    (words,) = re.findall(r"^python (-m onnxruntime\.tools\S+ .*)$", docs, re.MULTILINE)
    subprocess.run([sys.executable, *words.split()], cwd=tmp_path, check=True)
    rows = np.array([[1, 7], [7, 1]])
    expected = Session(tmp_path / "bundle" / "int8-x86.onnx")(rows)[0]
    converted = onnxruntime.InferenceSession(tmp_path / "bundle" / "int8-x86.ort")
    np.testing.assert_allclose(converted.run(None, {"input_ids": rows})[0], expected, rtol=1e-6)


def test_the_command_lays_it_out_and_says_how_to_load_it(images, tmp_path):
    done = compressor("package", images, "--for", "plain", "--to", "out", cwd=tmp_path)
    assert done.stdout.splitlines() == ["out", "load it with:", "python out/predict.py --help"], done.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in images.iterdir()}
    unknown = compressor("package", images, "--for", "tritn", cwd=tmp_path)
    assert unknown.returncode == 2
    assert "triton, transformers.js, optimum, mlflow or plain" in unknown.stderr


def test_what_a_program_cannot_run_what_is_damaged_and_what_exists_are_refused(images, tmp_path):
    with pytest.raises(UsageError, match="the target exists"):
        package(images, tmp_path, layout="plain", name="digits")
    with pytest.raises(UsageError, match="for models of Hugging Face's families"):
        package(images, tmp_path / "out", layout="optimum", name="digits")
    assert not (tmp_path / "out").exists()
    package(images, tmp_path / "copy", layout="plain", name="digits")
    (tmp_path / "copy" / "int8-x86.onnx").write_bytes(b"other")
    with pytest.raises(ArtifactError):
        package(tmp_path / "copy", tmp_path / "out", layout="triton", name="digits")


@pytest.mark.parametrize("width", screen.WIDTHS)
def test_what_is_said_of_each_layout_fits_the_terminal(texts, tmp_path, width, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = []
    for layout in LAYOUTS:
        place = Path(f"mails-{layout}")
        told += [tell_package(place, package(texts, place, layout=layout, name="mails"), width=width), ""]
    screen.hold("packages", "\n".join(told[:-1]), width=width)
