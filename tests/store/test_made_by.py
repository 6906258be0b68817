import json

from compress.store.made_by import made_by, our_source, versions


def test_it_is_json_with_our_source_and_the_libraries():
    found = made_by()
    assert json.loads(json.dumps(found)) == found
    assert {"torch", "onnx", "onnxscript"} < found["libraries"].keys() == versions().keys()
    assert found["source"] == our_source()
    assert len(our_source()) == 64


def test_our_source_is_known_by_its_content(tmp_path, monkeypatch):
    monkeypatch.setattr("compress.__file__", str(tmp_path / "__init__.py"))
    found = set()
    for text in ("a", "b", "a"):
        (tmp_path / "deep").mkdir(exist_ok=True)
        (tmp_path / "deep" / "module.py").write_text(text)
        found.add(our_source())
    assert len(found) == 2
