"""Models that write in optimum: `generate` on what is packaged for it writes what predict.py writes.

See test_ort_model.py for where these tests run.
"""

import os
import subprocess
import sys

import pytest
import writing_zoo
from seq2seq_zoo import make_model
from transformers import AutoTokenizer

from compress.export.bundle import write_bundle
from compress.export.decoding import Writing
from compress.export.feed import first_inputs
from compress.export.metadata import Lineage, Metadata
from compress.export.package import package
from compress.export.program import program_of
from compress.models import Seq2Seq, load_structure, save_model
from compress.quantization.placement import place_dynamic
from compress.quantization.plan import dynamic_plan
from compress.quantization.plans import quantized
from compress.tasks import Judge, Symbols, TransductionTask
from compress.tasks.pieces import load_pieces

if os.environ.get("COMPRESS_NEEDS_OPTIMUM"):
    import optimum.onnxruntime as ort
else:
    ort = pytest.importorskip("optimum.onnxruntime", reason="needs optimum-onnx; run `make test-optimum`")

WORDS = ["taxo", "koset", "ex", "kakak", "seto", "oat"]


@pytest.fixture(scope="module")
def data():
    return writing_zoo.data(200, test=0.2)


def bundle_of(family, folder, data):
    """The bundle of a student with one layer less, whose primary file is int8."""
    published = make_model(family, folder)
    pieces = load_pieces(str(published))
    task = TransductionTask.of(data, symbols=Symbols(max_length=12), judge=Judge(), pieces=pieces)
    model = Seq2Seq(path=str(published), decoder_layers=2)
    module = model.build(task.signature, code=()).eval()
    (folder / "stored").mkdir()
    save_model(module, folder / "stored", model=model, signature=task.signature)
    program = program_of(module, Writing(max_length=8, first=pieces.first))
    plans = {name: dynamic_plan(place_dynamic(graph.graph)) for name, graph in program.graphs.items()}
    bundle = folder / "bundle"
    bundle.mkdir()
    metadata = Metadata(
        variant="",
        lineage=Lineage(teacher=None, stages=()),
        labels=task.classes,
        preprocessing=task.preprocessing,
        signature=task.deployed.signature,
    )
    own = load_structure(folder / "stored").model.files(task.signature, problem=task.problem, preprocessing={})
    write_bundle(
        bundle,
        fp32=program,
        variants={"fp32": program, "int8-x86": quantized(program, plans)},
        primary="int8-x86",
        metadata=metadata,
        inputs=first_inputs(task.deployed, data.select, 32),
        files={**task.files(), **own},
    )
    return bundle


@pytest.mark.parametrize("family", ["t5", "marian", "bart"])
def test_generate_writes_what_predict_writes(family, data, tmp_path):
    bundle = bundle_of(family, tmp_path, data)
    told = package(bundle, tmp_path / "package", layout="optimum", name="student")
    assert told == f'ORTModelForSeq2SeqLM.from_pretrained("{tmp_path / "package"}")'
    script = [sys.executable, str(bundle / "predict.py"), *WORDS]
    expected = subprocess.run(script, capture_output=True, text=True, check=True).stdout.splitlines()
    loaded = ort.ORTModelForSeq2SeqLM.from_pretrained(tmp_path / "package")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "package")
    # One by one: int8 has ranges that depend on the batch.
    found = [loaded.generate(**tokenizer(word, return_tensors="pt"))[0] for word in WORDS]
    texts = tokenizer.batch_decode(found, skip_special_tokens=True)
    assert [text.strip() for text in texts] == [line.strip() for line in expected]
    assert len(set(texts)) > 3 or family == "marian"  # whose drawn weights repeat one piece
    two = loaded.generate(**tokenizer(WORDS, padding=True, return_tensors="pt"), num_beams=2, num_return_sequences=2)
    assert len(two) == 2 * len(WORDS)
