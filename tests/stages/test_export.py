from dataclasses import replace

import numpy as np
import onnx
import pytest
from pydantic import ValidationError

from compress.errors import StageError
from compress.export.feed import first_inputs
from compress.export.metadata import read_metadata
from compress.export.session import Session
from compress.export.verify import verify_bundle
from compress.models import Cnn
from compress.stages.create import Create
from compress.stages.distill import Distill
from compress.stages.export import Export
from compress.stages.prune import Prune
from compress.stages.quantize import Quantize
from compress.store.store import Store


@pytest.fixture
def context(make_context, trained_digits):
    return make_context(teacher=trained_digits)


def test_a_quantized_model_ships_as_int8_with_its_float_form_beside_it(context, trained_digits):
    quantized = Quantize(max_accuracy_drop=None).run(trained_digits, *context)
    bundle = Export().run(quantized, *context)
    assert bundle.kind == "bundle"
    assert bundle.facts["primary"] == "int8-x86"
    assert bundle.facts["parity"]["max_abs"] < 1e-4 * bundle.facts["parity"]["scale"]
    assert bundle.facts["variants"]["int8-x86"]["argmax_agreement"] > 0.98
    assert bundle.facts["variants"]["int8-x86"]["size_bytes"] < 0.5 * bundle.facts["variants"]["fp32"]["size_bytes"]
    report = verify_bundle(bundle.path)
    assert report.passed
    assert report.sha256 == bundle.facts["sha256"]


def test_the_shipped_file_is_as_accurate_as_its_source(context, trained_digits):
    bundle = Export().run(Quantize(max_accuracy_drop=None).run(trained_digits, *context), *context)
    rows = first_inputs(context.task, context.data.select, len(context.data.select))
    logits = Session(bundle.path / "int8-x86.onnx")(*rows)[0]
    assert context.task.tally(logits, context.data.select).value > 0.9


def test_the_files_say_where_they_come_from(context, trained_digits):
    bundle = Export().run(trained_digits, *context)
    metadata = read_metadata(Session(bundle.path / "fp32.onnx").metadata)
    assert metadata.labels == tuple("0123456789")
    assert metadata.preprocessing == context.task.preprocessing


def test_the_lineage_is_every_stage_in_order_and_the_teacher(context, trained_digits):
    created = Create(model=Cnn(widths=(8, 8), strides=(1, 2))).run(None, *context)
    distilled = Distill(epochs=1, batch_size=100).run(created, *context)
    pruned = Prune(kept_macs_fraction=0.9, importance="magnitude", round_to=1).run(distilled, *context)
    recovered = Distill(name="recover", epochs=1, batch_size=100).run(pruned, *context)
    quantized = Quantize(max_accuracy_drop=None, min_agreement=0).run(recovered, *context)
    bundle = Export().run(quantized, *context)
    text = Session(bundle.path / "int8-x86.onnx").metadata["compress"]
    lineage = read_metadata({"compress": text}).lineage
    made = [created, distilled, pruned, recovered, quantized]
    assert [stage.stage for stage in lineage.stages] == ["create", "distill", "prune", "distill", "quantize"]
    assert [(stage.key, stage.digest) for stage in lineage.stages] == [(one.key, one.digest) for one in made]
    assert lineage.teacher == trained_digits.digest
    assert bundle.read_json("bundle.json")["lineage"] == lineage.model_dump(mode="json")
    assert str(context.store.root) not in text


def test_another_lineage_is_another_bundle(context, trained_digits):
    assert Export().key(trained_digits, *context) != Export().key(trained_digits, *replace(context, teacher=None))


def test_a_float_model_ships_alone_or_in_half_precision(context, trained_digits):
    bundle = Export(variants=("fp16-gpu", "fp32")).run(trained_digits, *context)
    assert set(bundle.facts["variants"]) == {"fp32", "fp16-gpu"}
    assert bundle.facts["primary"] == "fp16-gpu"


def test_weights_of_7_bits_ship_beside_those_of_8(context, trained_digits, monkeypatch):
    quantized = Quantize(max_accuracy_drop=None, min_agreement=0).run(trained_digits, *context)
    bundle = Export(variants=("int8-x86", "int8-x86-7bit")).run(quantized, *context)
    assert bundle.facts["primary"] == "int8-x86"
    largest = {}
    for name, facts in bundle.facts["variants"].items():
        graph = onnx.load(bundle.path / f"{name}.onnx").graph
        arrays = [onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer]
        largest[name] = max(int(np.abs(array.astype(int)).max()) for array in arrays if array.dtype == np.int8)
        assert facts["argmax_agreement"] > 0.97
    assert largest == {"int8-x86": 127, "int8-x86-7bit": 63}
    for module in ("verify", "processor"):
        monkeypatch.setattr(f"compress.export.{module}.cpu_flags", lambda: frozenset({"ssse3", "avx2"}))
    (warning,) = verify_bundle(bundle.path).warnings
    assert "int8-x86 was checked with" in warning


def test_int8_without_a_plan_is_refused(context, trained_digits):
    with pytest.raises(StageError, match="needs a quant plan"):
        Export(variants=("int8-x86",)).run(trained_digits, *context)
    with pytest.raises(StageError, match="needs a quant plan"):
        Export(primary="int8-x86").run(trained_digits, *context)
    with pytest.raises(StageError, match="needs a quant plan"):
        Export(variants=("fp32", "int8-x86-7bit")).run(trained_digits, *context)


def test_contradicting_fields_are_refused_at_construction():
    with pytest.raises(ValidationError, match="one of the variants"):
        Export(variants=("fp32",), primary="int8-x86")
    with pytest.raises(ValidationError, match="each once"):
        Export(variants=("fp32", "fp32"))
    for name in ("fp16-gpu", "int8-x86-7bit"):
        with pytest.raises(ValidationError, match="no default variant"):
            Export(primary=name)


def test_data_that_may_not_leave_do_not(context, trained_digits):
    bundle = Export(synthetic_reference=True).run(trained_digits, *context)
    with np.load(bundle.path / "reference.npz") as archive:
        rows = archive["input/pixel_values"]
    real = first_inputs(context.task, context.data.select, len(context.data.select))[0]
    assert rows.shape == (64, *context.task.shape)
    assert not any(np.array_equal(row, other) for row in rows for other in real)
    # Parity and differences are those of real inputs, whatever the archive holds.
    usual = Export().run(trained_digits, *context)
    assert bundle.facts["parity"] == usual.facts["parity"]
    assert bundle.facts["variants"]["fp32"]["max_abs"] == usual.facts["variants"]["fp32"]["max_abs"]


def test_the_same_artifact_gives_the_same_bundle(context, make_context, trained_digits, tmp_path):
    first = Export().run(trained_digits, *context)
    second = Export().run(trained_digits, *make_context(teacher=trained_digits, store=Store.open(tmp_path / "other")))
    assert first.digest == second.digest
