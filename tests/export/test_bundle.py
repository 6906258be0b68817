import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from dataclasses import asdict
from functools import partial

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from compress.data.checks import MIN_SELECT_SAMPLES
from compress.data.preprocess import Preprocess
from compress.errors import ArtifactError, InputError, StageError
from compress.export.bundle import MIN_REFERENCE_ROWS, write_bundle
from compress.export.deployable import ALONE, Deployable
from compress.export.graph import to_onnx
from compress.export.half import to_half
from compress.export.metadata import Ancestor, Lineage, Metadata, read_metadata
from compress.export.session import Session
from compress.export.verify import verify_bundle
from compress.quantization.calibration import minmax
from compress.quantization.writer import plan_without_training, write_quantized

BLOCKED = ("torch", "onnx", "onnxscript", "mlflow", "pydantic", "sklearn", "scipy")


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(0).standard_normal((64, 1, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def metadata(signature):
    return Metadata(
        variant="",
        lineage=Lineage(teacher="aa", stages=(Ancestor(stage="distill", key="bb", digest="cc"),)),
        labels=("a", "b", "c", "d", "e"),
        preprocessing={"layout": "NCHW", "scale": 1 / 255, "mean": [0.5], "std": [0.25]},
        signature=signature,
    )


@pytest.fixture(scope="module")
def variants(make_net, signature, rows):
    fp32 = to_onnx(make_net(), signature, (torch.zeros(2, 1, 8, 8),))
    plan = plan_without_training(fp32, lambda: [(rows,)], mode="static", find=minmax)
    graphs = {"fp32": fp32, "int8-x86": write_quantized(fp32, plan), "fp16-gpu": to_half(fp32)}
    return {name: Deployable.of(graph) for name, graph in graphs.items()}


@pytest.fixture(scope="module")
def original(tmp_path_factory, variants, metadata, rows):
    directory = tmp_path_factory.mktemp("bundle")
    write_bundle(
        directory,
        fp32=variants["fp32"],
        variants=variants,
        primary="int8-x86",
        metadata=metadata,
        inputs=(rows,),
        files={},
    )
    return directory


@pytest.fixture
def bundle(original, tmp_path):
    return shutil.copytree(original, tmp_path / "bundle")


def test_a_bundle_verifies_where_it_was_made(bundle):
    report = verify_bundle(bundle)
    assert report.passed
    assert report.primary == "int8-x86.onnx"
    assert set(report.variants) == {"fp32", "int8-x86", "fp16-gpu"}
    assert report.variants["fp32"].max_abs == 0.0
    assert report.sha256 == json.loads((bundle / "bundle.json").read_text())["files"]["int8-x86.onnx"]["sha256"]


def test_verify_needs_onnxruntime_and_numpy_alone(bundle):
    script = (
        "import sys\n"
        f"for name in {BLOCKED!r}: sys.modules[name] = None\n"
        "from pathlib import Path\n"
        "from compress.export.verify import verify_bundle\n"
        "assert verify_bundle(Path(sys.argv[1])).passed\n"
    )
    subprocess.run([sys.executable, "-c", script, str(bundle)], check=True)


def test_predict_needs_onnxruntime_and_numpy_alone(bundle, rows):
    script = (
        "import runpy, sys\n"
        f"for name in (*{BLOCKED!r}, 'compress'): sys.modules[name] = None\n"
        "path = sys.argv[1]; sys.argv = sys.argv[1:]\n"
        "runpy.run_path(path, run_name='__main__')\n"
    )
    run = [sys.executable, "-c", script, str(bundle / "predict.py")]
    done = subprocess.run(run, check=True, capture_output=True, text=True)
    expected = Session(bundle / "int8-x86.onnx")(rows)[0].argmax(1)
    assert done.stdout.split() == ["abcde"[index] for index in expected]
    np.save(bundle / "rows.npy", rows[:3].clip(-2, 2))
    done = subprocess.run([*run, "--inputs", str(bundle / "rows.npy")], check=True, capture_output=True, text=True)
    assert len(done.stdout.split()) == 3


def predict(bundle, *arguments, **more):
    command = [sys.executable, str(bundle / "predict.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **more)


class Brightness(torch.nn.Module):
    """The class whose number is nearest to the mean of the normalised image, moved from [-2, 2] to [0, 4]."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        number = torch.arange(5.0)
        return 2 * (image.mean((2, 3)) + 2) * number - number**2


def test_predict_preprocesses_images_and_raw_arrays(tmp_path, signature, metadata, rows):
    fp32 = Deployable.of(to_onnx(Brightness(), signature, (torch.zeros(2, 1, 8, 8),)))
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    write_bundle(
        bundle, fp32=fp32, variants={"fp32": fp32}, primary="fp32", metadata=metadata, inputs=(rows,), files={}
    )
    raw = np.broadcast_to(np.array([0, 70, 120, 180, 250, 10], np.uint8).reshape(-1, 1, 1, 1), (6, 1, 8, 8))
    inputs, expected = ((raw / 255 - 0.5) / 0.25).astype(np.float32), [*"abcdea"]
    for name, array in (("bytes", raw), ("grey", raw[:, 0]), ("scaled", (raw / 255).astype(np.float32))):
        np.save(tmp_path / f"{name}.npy", array)
        assert predict(bundle, tmp_path / f"{name}.npy").stdout.split() == expected
    np.save(tmp_path / "ready.npy", inputs)
    assert predict(bundle, "--inputs", tmp_path / "ready.npy").stdout.split() == expected
    with (tmp_path / "bytes.npy").open("rb") as given:
        done = predict(bundle, "-", "--json", "--batch-size", "4", stdin=given)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [entry["label"] for entry in found] == expected
    for entry in found:
        assert list(entry["probabilities"])[0] == entry["label"]
        assert sum(entry["probabilities"].values()) == pytest.approx(1)
    likely = predict(bundle, "--probabilities", tmp_path / "bytes.npy").stdout.splitlines()
    assert [line.split()[0] for line in likely] == expected
    assert likely[0].split()[1] == f"{found[0]['probabilities'][expected[0]]:.4f}"
    told = predict(bundle, "--help")
    assert told.returncode == 0
    assert all(word in told.stdout for word in ("Label images", "--json", "--batch-size", "--probabilities"))
    files = [tmp_path / f"{number}.png" for number in range(6)]
    for file, image in zip(files, raw[:, 0], strict=True):
        Image.fromarray(image).save(file)
    assert predict(bundle, *files).stdout.split() == expected
    Image.new("RGB", (31, 17), (200, 10, 10)).save(tmp_path / "photo.jpg")
    assert len(predict(bundle, tmp_path / "photo.jpg").stdout.split()) == 1


def test_predict_reads_files_as_the_recipe_says(tmp_path, signature, metadata, rows):
    """Bright in the centre and dark around it: a crop of the centre is of another class than the whole image."""
    preprocess = Preprocess(size=8, resize_to=20, interpolation="nearest", channels="grayscale")
    told = metadata.preprocessing | {"files": asdict(preprocess.steps)}
    fp32 = Deployable.of(to_onnx(Brightness(), signature, (torch.zeros(2, 1, 8, 8),)))
    pixels = np.zeros((40, 60), np.uint16)
    pixels[12:28, 22:38] = 65535
    Image.fromarray(pixels).save(tmp_path / "centre.png")
    for name, own in (("cut", told), ("whole", metadata.preprocessing)):
        (tmp_path / name).mkdir()
        given = metadata.model_copy(update={"preprocessing": own})
        write_bundle(
            tmp_path / name,
            fp32=fp32,
            variants={"fp32": fp32},
            primary="fp32",
            metadata=given,
            inputs=(rows,),
            files={},
        )
    found = [predict(tmp_path / name, tmp_path / "centre.png").stdout.split() for name in ("cut", "whole")]
    assert found == [["e"], ["a"]]


@pytest.mark.parametrize(
    ("array", "options", "words"),
    [
        (np.full((2, 1, 8, 8), 255.0), (), "expected uint8, or numbers from 0 to 1"),
        (np.full((2, 1, 8, 8), -0.5), (), "--inputs takes preprocessed arrays"),
        (np.full((2, 1, 8, 8), np.nan), (), "expected uint8, or numbers from 0 to 1"),
        (np.full((2, 1, 8, 8), 200), (), "got int64 from 200 to 200"),
        (np.full((2, 1, 8, 8), 9.0), ("--inputs",), "expected preprocessed images"),
        (np.zeros((2, 8, 8, 1), np.uint8), (), "expected images ['N', 1, 8, 8], got [2, 8, 8, 1]"),
        (np.zeros((2, 3), np.uint8), ("--inputs",), "expected images"),
        (None, (), "rows.npy"),
    ],
)
def test_predict_refuses_what_is_out_of_range_in_one_line(bundle, tmp_path, array, options, words):
    (tmp_path / "rows.npy").write_bytes(b"nothing")
    if array is not None:
        np.save(tmp_path / "rows.npy", array)
    done = predict(bundle, *options, tmp_path / "rows.npy")
    assert done.returncode == 1
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_predict_refuses_a_changed_file(bundle):
    model = bundle / "int8-x86.onnx"
    model.write_bytes(model.read_bytes() + b"\0")
    done = subprocess.run([sys.executable, str(bundle / "predict.py")], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "not the file that was exported" in done.stderr


@pytest.mark.parametrize("name", ["fp32.onnx", "labels.json", "reference.npz", "predict.py"])
def test_tampering_and_truncation_are_found(bundle, name):
    content = (bundle / name).read_bytes()
    (bundle / name).write_bytes(content[:-1])
    with pytest.raises(ArtifactError, match="truncated"):
        verify_bundle(bundle)
    (bundle / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ArtifactError, match="changed"):
        verify_bundle(bundle)
    (bundle / name).unlink()
    with pytest.raises(ArtifactError, match="missing"):
        verify_bundle(bundle)


def test_a_directory_without_manifest_and_a_newer_format_are_refused(bundle):
    manifest = json.loads((bundle / "bundle.json").read_text())
    (bundle / "bundle.json").write_text(json.dumps(manifest | {"format_version": 99}))
    with pytest.raises(ArtifactError, match="^the bundle has another format"):
        verify_bundle(bundle)
    (bundle / "bundle.json").write_text("{")
    with pytest.raises(ArtifactError, match="no bundle"):
        verify_bundle(bundle)


def edit(bundle, change):
    """Change ``bundle.json`` by a function of its content."""
    manifest = json.loads((bundle / "bundle.json").read_text())
    change(manifest)
    (bundle / "bundle.json").write_text(json.dumps(manifest))


def relist(bundle, name):
    """Let the manifest say what a file is now."""
    content = (bundle / name).read_bytes()
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
    edit(bundle, lambda manifest: manifest["files"].update({name: entry}))


def put(*path, to):
    """Return a change of a manifest that puts a value at a path."""

    def change(manifest):
        for key in path[:-1]:
            manifest = manifest[key]
        manifest[path[-1]] = to

    return change


FP32, INT8 = ("variants", "fp32"), ("variants", "int8-x86")
EMPTY = {"sha256": hashlib.sha256(b"").hexdigest(), "size_bytes": 0}
MALFORMED = {
    "nothing is judged": (put("variants", to={}), "variants"),
    "the primary is not judged": (put("primary", to="labels.json"), "primary"),
    "no primary": (put("primary", to=None), "primary"),
    "a variant outside": (put(*FP32, "file", to="../outside.onnx"), "variants.fp32.file"),
    "a variant that is not listed": (put(*FP32, "file", to="other.onnx"), "variants.fp32.file"),
    "a variant that is no name": (put(*FP32, "file", to=["fp32.onnx"]), "variants.fp32.file"),
    "a file above": (put("files", "../../etc/passwd", to=EMPTY), "a plain name"),
    "a file elsewhere": (put("files", "/dev/zero", to=EMPTY), "a plain name"),
    "a file in a folder": (put("files", "sub/file", to=EMPTY), "a plain name"),
    "a folder": (put("files", "..", to=EMPTY), "a plain name"),
    "a hidden file": (put("files", ".env", to=EMPTY), "a plain name"),
    "the manifest itself": (put("files", "bundle.json", to=EMPTY), "a plain name"),
    "a file without a size": (put("files", "a", to={"sha256": "0" * 64}), "files.a"),
    "a size below nothing": (put("files", "labels.json", "size_bytes", to=-1), "files.labels.json.size_bytes"),
    "a size above all": (put("files", "labels.json", "size_bytes", to=2**60), "files.labels.json.size_bytes"),
    "a size that is no number": (put("files", "labels.json", "size_bytes", to=True), "files.labels.json.size_bytes"),
    "a hash that is none": (put("files", "labels.json", "sha256", to="0"), "files.labels.json.sha256"),
    "too many files": (lambda found: found["files"].update({f"f{n}": EMPTY for n in range(1001)}), "at most 1000"),
    "no reference": (lambda found: found["files"].pop("reference.npz"), "reference.npz"),
    "an agreement below nothing": (put(*INT8, "min_agreement", to=-1), "min_agreement"),
    "an agreement of nothing": (put(*INT8, "min_agreement", to=0), "min_agreement"),
    "an agreement above all": (put(*INT8, "min_agreement", to=1.5), "min_agreement"),
    "an agreement that is none": (put(*INT8, "min_agreement", to="0.98"), "min_agreement"),
    "an agreement that is no number": (put(*INT8, "min_agreement", to=float("nan")), "no bundle"),
    "a tolerance of everything": (put(*FP32, "tolerance", to=1e9), "tolerance"),
    "no tolerance for floats": (put(*FP32, "tolerance", to=None), "tolerance"),
    "an endless tolerance": (put(*FP32, "tolerance", to=float("inf")), "no bundle"),
    "variants that are a list": (put("variants", to=[]), "variants"),
    "bounds that are a word": (put(*FP32, to="fp32.onnx"), "variants.fp32"),
    "files that are a number": (put("files", to=3), "files"),
    "no signature": (put("signature", to={}), "signature"),
    "inputs without names": (put("signature", "inputs", to=[{}]), "signature.inputs"),
    "an input twice": (put("signature", "inputs", to=[{"name": "a"}] * 2), "signature.inputs"),
    "another key": (put("more", to=1), "the keys"),
    "a missing key": (lambda found: found.pop("lineage"), "the keys"),
    "a version that is a word": (put("format_version", to="1"), "format_version"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_manifest_is_refused_by_the_name_of_its_field(bundle, name):
    change, told = MALFORMED[name]
    edit(bundle, change)
    with pytest.raises(ArtifactError) as caught:
        verify_bundle(bundle)
    assert told in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 4
    assert max(map(len, str(caught.value).splitlines())) < 400


@pytest.mark.parametrize("text", ["[]", "3", '"a"', "null", "[" * 100_000, "{" + " " * 2**24 + "}", "\xff", "1" * 5000])
def test_a_manifest_that_is_no_mapping_is_refused(bundle, text):
    (bundle / "bundle.json").write_text(text, encoding="latin-1")
    with pytest.raises(ArtifactError):
        verify_bundle(bundle)


def test_a_link_a_pipe_and_a_folder_are_no_files_of_a_bundle(bundle, tmp_path):
    content = (bundle / "labels.json").read_bytes()
    (tmp_path / "outside.json").write_bytes(content)
    (bundle / "labels.json").unlink()
    (bundle / "labels.json").symlink_to(tmp_path / "outside.json")
    with pytest.raises(ArtifactError, match=r"(?s)no plain file.*a link"):
        verify_bundle(bundle)
    (bundle / "labels.json").unlink()
    os.mkfifo(bundle / "labels.json")  # which a reader would wait for
    with pytest.raises(ArtifactError, match="no plain file"):
        verify_bundle(bundle)
    (bundle / "labels.json").unlink()
    (bundle / "labels.json").mkdir()
    with pytest.raises(ArtifactError, match="no plain file"):
        verify_bundle(bundle)


@pytest.mark.parametrize("location", ["weights.bin", "../weights.bin", "{outside}"])
def test_a_model_reads_no_file_that_is_not_listed(bundle, tmp_path, location):
    """By a graph whose weights lie somewhere else, in the place of the float file."""
    location = location.format(outside=tmp_path / "weights.bin")
    model = onnx.load(bundle / "fp32.onnx")
    tensor = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    for folder in (bundle, tmp_path):
        (folder / "weights.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    (bundle / "fp32.onnx").write_bytes(model.SerializeToString())
    relist(bundle, "fp32.onnx")
    with pytest.raises(ArtifactError, match="does not list|cannot load the model|does not fit"):
        verify_bundle(bundle)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda arrays: arrays.pop("int8-x86/logits"),
        lambda arrays: arrays.clear(),
        lambda arrays: arrays.update({name: value[:31] for name, value in arrays.items()}),
        lambda arrays: arrays.update({name: value[:0] for name, value in arrays.items()}),
        lambda arrays: arrays.update({name: value.astype(str) for name, value in arrays.items()}),
        lambda arrays: arrays.update({name: value.ravel() for name, value in arrays.items()}),
        lambda arrays: arrays.update({"fp32/logits": arrays["fp32/logits"][:1]}),
    ],
)
def test_a_reference_that_is_none_is_refused(bundle, spoil):
    with np.load(bundle / "reference.npz") as archive:
        arrays = {name: archive[name] for name in archive.files}
    spoil(arrays)
    np.savez_compressed(bundle / "reference.npz", **arrays)
    relist(bundle, "reference.npz")
    with pytest.raises(ArtifactError, match="does not fit its manifest"):
        verify_bundle(bundle)


def test_a_reference_that_unpacks_to_too_much_is_refused_before_it_does(bundle, monkeypatch):
    monkeypatch.setattr("compress.export.verify.MAX_REFERENCE_BYTES", 1000)
    with pytest.raises(ArtifactError, match="expected at most 1000"):
        verify_bundle(bundle)


def test_nothing_a_bundle_holds_is_a_traceback(bundle):
    """Random damage of every file, listed as it then is."""
    draw = random.Random(0)
    names = ["reference.npz", "fp32.onnx", "int8-x86.onnx"]
    refused = 0
    for _ in range(40):
        name = draw.choice(names)
        original, listed = (bundle / name).read_bytes(), (bundle / "bundle.json").read_bytes()
        content = bytearray(original)
        for _ in range(draw.randint(1, 4)):
            content[draw.randrange(len(content))] = draw.randrange(256)
        (bundle / name).write_bytes(content)
        relist(bundle, name)
        try:
            verify_bundle(bundle)
        except ArtifactError:
            refused += 1
        (bundle / name).write_bytes(original)
        (bundle / "bundle.json").write_bytes(listed)
    assert refused > 10
    assert verify_bundle(bundle).passed


TOKENIZER = {
    "version": "1.0",
    "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False},
    "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"},
}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (json.dumps(TOKENIZER), r"does not come to an end(?s:.*)\(a\+\)\+\$"),
        (json.dumps(TOKENIZER).replace("Regex", r"\u0052egex"), "does not come to an end"),
        (json.dumps(TOKENIZER | {"model": {}}), "the tokenizer cannot be read"),
        ("[" * 100_000, "the tokenizer of the bundle cannot be read"),
        ("[]", "the tokenizer of the bundle cannot be read"),
    ],
)
def test_a_tokenizer_that_never_ends_or_is_none_is_refused(bundle, text, words):
    (bundle / "tokenizer.json").write_text(text)
    relist(bundle, "tokenizer.json")
    with pytest.raises(InputError, match=words):
        verify_bundle(bundle)


def test_expressions_that_cannot_be_tried_are_told(bundle, monkeypatch):
    (bundle / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    relist(bundle, "tokenizer.json")
    monkeypatch.setattr("compress.export.verify.find_spec", lambda name: None)
    assert any("expressions of its own, which are not tried" in line for line in verify_bundle(bundle).warnings)


@pytest.mark.parametrize("primary", ["../outside.onnx", "/etc/passwd", "labels.json"])
def test_predict_opens_nothing_outside_its_directory(bundle, tmp_path, primary):
    shutil.copyfile(bundle / "fp32.onnx", tmp_path / "outside.onnx")
    if primary == "labels.json":
        (bundle / primary).rename(tmp_path / "labels.json")
        (bundle / primary).symlink_to(tmp_path / "labels.json")
    edit(bundle, put("primary", to=primary))
    done = subprocess.run([sys.executable, str(bundle / "predict.py")], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"{primary} is not the file that was exported\n"


def test_a_machine_that_computes_something_else_does_not_pass(bundle):
    """The same bundle with another machine's outputs as its reference."""
    with np.load(bundle / "reference.npz") as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays["fp32/logits"] = arrays["fp32/logits"] + 0.01
    arrays["int8-x86/logits"] = -arrays["int8-x86/logits"]
    np.savez_compressed(bundle / "reference.npz", **arrays)
    manifest = json.loads((bundle / "bundle.json").read_text())
    content = (bundle / "reference.npz").read_bytes()
    manifest["files"]["reference.npz"] = {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
    (bundle / "bundle.json").write_text(json.dumps(manifest))
    report = verify_bundle(bundle)
    assert not report.passed
    assert {name for name, entry in report.variants.items() if not entry.passed} == {"fp32", "int8-x86"}


def exactness(session: Session) -> str:
    return session.raw.get_session_options().get_session_config_entry("session.x64quantprecision")


@pytest.fixture
def without_vnni(monkeypatch):
    """A CPU of before VNNI, as far as we can tell."""
    for module in ("verify", "processor"):
        monkeypatch.setattr(f"compress.export.{module}.cpu_flags", lambda: frozenset({"ssse3", "avx2"}))


def test_without_vnni_a_bundle_is_checked_with_exact_products_and_says_how_to_get_them(bundle, without_vnni):
    found = verify_bundle(bundle)
    assert found.passed
    assert any("no VNNI" in warning and "x64quantprecision" in warning for warning in found.warnings)
    assert exactness(Session(bundle / "int8-x86.onnx")) == "1"


def test_with_vnni_nothing_is_set(bundle, monkeypatch):
    monkeypatch.setattr("compress.export.processor.cpu_flags", lambda: frozenset({"ssse3", "avx2", "avx512_vnni"}))
    with pytest.raises(RuntimeError, match="x64quantprecision"):
        exactness(Session(bundle / "int8-x86.onnx"))


def test_predict_asks_for_exact_products_without_vnni_alone(bundle):
    script = (bundle / "predict.py").read_text()
    for flags, expected in (("ssse3 avx2", 1), ("ssse3 avx2 avx512_vnni", 0), ("asimd", 0)):
        (bundle / "cpuinfo").write_text(f"flags : {flags}\n")
        told = script.replace('Path("/proc/cpuinfo")', 'here / "cpuinfo"').replace(
            "    options.add", "    sys.stdout.write('exact\\n')\n    options.add"
        )
        (bundle / "patched.py").write_text(told)
        done = subprocess.run([sys.executable, str(bundle / "patched.py")], capture_output=True, text=True, check=True)
        assert done.stdout.count("exact\n") == expected


def test_a_file_that_cannot_be_exact_is_loaded_as_it_is_and_its_predict_does_not_ask(
    tmp_path, metadata, rows, signature, without_vnni
):
    class Shared(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.twice, self.head = (torch.nn.Linear(*size) for size in ((64, 32), (32, 32), (32, 5)))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.twice(torch.relu(self.stem(x.flatten(1)))))
            return self.head(torch.relu(self.twice(x)))

    torch.manual_seed(0)
    fp32 = to_onnx(Shared(), signature, (torch.zeros(2, 1, 8, 8),))
    int8 = write_quantized(fp32, plan_without_training(fp32, lambda: [(rows,)], mode="static", find=minmax))
    with pytest.raises(ArtifactError, match="cannot load"):
        Session(int8, exact_int8=True)  # what the fallback is for; drop it when ONNX Runtime can
    write_bundle(
        tmp_path,
        fp32=Deployable.of(fp32),
        variants={"int8-x86": Deployable.of(int8)},
        primary="int8-x86",
        metadata=metadata,
        inputs=(rows,),
        files={},
    )
    assert "x64quantprecision" not in (tmp_path / "predict.py").read_text()
    assert verify_bundle(tmp_path).passed


def test_the_files_carry_our_metadata(bundle, metadata):
    for name in ("fp32", "int8-x86", "fp16-gpu"):
        found = read_metadata(Session(bundle / f"{name}.onnx").metadata)
        assert found == metadata.model_copy(update={"variant": name})


def test_a_file_without_our_metadata_or_of_another_format_is_refused(metadata):
    with pytest.raises(ArtifactError, match="no compress metadata"):
        read_metadata({"other": "1"})
    newer = json.dumps(json.loads(metadata.model_dump_json()) | {"format_version": 99})
    with pytest.raises(ArtifactError, match="another format version"):
        read_metadata({"compress": newer})


def test_the_same_variants_give_the_same_bytes(bundle, tmp_path, variants, metadata, rows):
    again = tmp_path / "again"
    again.mkdir()
    write_bundle(
        again, fp32=variants["fp32"], variants=variants, primary="int8-x86", metadata=metadata, inputs=(rows,), files={}
    )
    for path in bundle.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes()


def test_the_float_outputs_are_in_the_reference_when_only_int8_ships(tmp_path, variants, metadata, rows):
    int8 = {"int8-x86": variants["int8-x86"]}
    write_bundle(
        tmp_path, fp32=variants["fp32"], variants=int8, primary="int8-x86", metadata=metadata, inputs=(rows,), files={}
    )
    assert not (tmp_path / "fp32.onnx").exists()
    with np.load(tmp_path / "reference.npz") as archive:
        floats, integers = archive["fp32/logits"], archive["int8-x86/logits"]
    np.testing.assert_array_equal(floats, variants["fp32"].open()(rows)[0])
    assert (floats != integers).any()
    assert list(verify_bundle(tmp_path).variants) == ["int8-x86"]


def test_a_moved_bundle_verifies(bundle, tmp_path):
    shutil.copytree(bundle, tmp_path / "elsewhere")
    assert verify_bundle(tmp_path / "elsewhere").passed


def test_the_smallest_select_role_fills_a_bundle():
    assert MIN_SELECT_SAMPLES >= MIN_REFERENCE_ROWS


def test_few_inputs_and_unknown_names_are_refused(tmp_path, variants, metadata, rows):
    write = partial(write_bundle, tmp_path, fp32=variants["fp32"], metadata=metadata, files={})
    with pytest.raises(StageError, match="32 rows"):
        write(variants=variants, primary="fp32", inputs=(rows[:31],))
    with pytest.raises(StageError, match="not among the variants"):
        write(variants=variants, primary="int4", inputs=(rows,))
    with pytest.raises(StageError, match="after its precision"):
        write(variants={"small": variants["fp32"]}, primary="small", inputs=(rows,))


def test_half_precision_halves_the_weights_and_keeps_float_inputs(variants, rows):
    half, full = (variants[name].graphs[ALONE] for name in ("fp16-gpu", "fp32"))
    types = {tensor.data_type for tensor in half.graph.initializer if len(tensor.dims) > 1}
    assert types == {onnx.TensorProto.FLOAT16}
    np.testing.assert_allclose(
        Session(half.SerializeToString())(rows)[0], Session(full.SerializeToString())(rows)[0], atol=5e-3
    )
