"""The script of text bundles, as it ships: a tokenizer's own expression cannot keep it busy for ever."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from onnx import TensorProto, helper

import compress.export


@pytest.fixture
def bundle(tmp_path):
    """Return a function from a regular expression to a bundle that sees which of two labels has more letters."""
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "length"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "length"])
    graph = helper.make_graph([helper.make_node("Cast", ["input_ids"], ["logits"], to=1)], "g", [ids], [logits])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    content = model.SerializeToString()

    def make(pattern: str) -> Path:
        split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Removed", "invert": False}
        words = {"type": "WordLevel", "vocab": {"x": 0, "good": 7}, "unk_token": "x"}
        signature = {"outputs": [{"shape": ["batch", 2]}]}
        listed = {"fp32.onnx": {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}}
        files = {
            "tokenizer": {"version": "1.0", "pre_tokenizer": split, "model": words},
            "bundle": {"primary": "fp32.onnx", "files": listed, "signature": signature},
            "labels": ["first", "second"],
            "preprocessing": {"texts": 1, "problem": "single-label"},
        }
        (tmp_path / "fp32.onnx").write_bytes(content)
        for name, value in files.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(value))
        script = Path(compress.export.__file__).with_name("predict_text.py").read_text()
        assert "(60 + " in script
        (tmp_path / "predict.py").write_text(script.replace("(60 + ", "(1 + "))  # seconds
        return tmp_path

    return make


def predict(bundle: Path, *texts: str, **more) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, bundle / "predict.py", *texts]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **more)


def test_texts_are_labelled_while_their_expression_ends(bundle):
    done = predict(bundle(" "), "bad good", "good bad")
    assert (done.returncode, done.stdout.split()) == (0, ["second", "1.00", "first", "1.00"]), done.stderr


def test_an_expression_without_end_ends_the_script(bundle):
    done = predict(bundle("a*a*a*b| "), input="good bad\n" + "a" * 10_000 + "!b\n")
    assert done.returncode == 1
    assert done.stdout == "first 1.00\n"  # what came before
    assert "Timeout (0:00:0" in done.stderr
    assert "predict.py" in done.stderr


def test_texts_are_read_in_batches_and_told_as_json_in_their_order(bundle):
    made = bundle(" ")
    given = "bad good\ngood bad\n"
    one, two = (predict(made, "--json", "--batch-size", str(size), input=given) for size in (1, 2))
    assert one.returncode == two.returncode == 0, one.stderr + two.stderr
    assert one.stdout == two.stdout
    found = [json.loads(line) for line in one.stdout.splitlines()]
    assert [(entry["text"], entry["label"]) for entry in found[:2]] == [("bad good", "second"), ("good bad", "first")]
    assert sum(found[0]["probabilities"].values()) == pytest.approx(1)
    assert predict(made, "bad good", "--probabilities").stdout == "second 1.00 first 0.00\n"
    assert "one per line on standard input" in predict(made, "--help").stdout
