"""A model that writes as two graphs: what they compute, and what they write."""

import json
from dataclasses import replace

import causal_zoo
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn

from compress.benchmark.model_file import contents
from compress.errors import ArtifactError, StageError, UsageError
from compress.export.decoding import Writing
from compress.export.deployable import Deployable
from compress.export.layers import layer_sizes
from compress.export.manifest import FORMAT_VERSION, Content, Manifest
from compress.export.onnx_file import copy_model, external_files, size_bytes
from compress.export.optimum_program import decoder_for_optimum, encoder_for_optimum, numbers_of, write_optimum_program
from compress.export.program import check_program, compare_texts, in_torch, program_of
from compress.export.program_file import ProgramFile, open_model
from compress.export.session import Session
from compress.models.transducer import Transducer

HOW = Writing(max_length=12)
SOURCE, TARGET = 30, 20


@pytest.fixture(scope="module")
def module():
    torch.manual_seed(0)
    made = Transducer(
        source_symbols=SOURCE, target_symbols=TARGET, width=16, heads=2, feed_forward=32, encoder_layers=1,
        decoder_layers=2, max_length=16,
    )  # fmt: skip
    for value in made.parameters():  # biases other than zero, logits that are far apart
        nn.init.normal_(value, std=0.5)
    return made


@pytest.fixture(scope="module")
def program(module):
    return program_of(module, HOW)


@pytest.fixture(scope="module")
def path(program, tmp_path_factory):
    return program.write(tmp_path_factory.mktemp("program"), "fp32")


@pytest.fixture(scope="module")
def inputs():
    draw = np.random.default_rng(0)
    mask = (np.arange(9) < draw.integers(1, 10, (200, 1))).astype(np.int64)
    targets = draw.integers(4, TARGET, (200, 7)) * (np.arange(7) < draw.integers(1, 8, (200, 1)))
    return draw.integers(4, SOURCE, (200, 9)) * mask, mask, np.concatenate([np.ones((200, 1), int), targets], axis=1)


def test_a_program_computes_and_writes_what_its_module_does(module, program, inputs):
    found = check_program(module, lambda optimize: program.open(optimize=optimize).decoder, inputs)
    assert found["max_abs"] < 1e-4
    assert found["argmax_agreement"] == 1.0
    wide = replace(HOW, beams=3)
    assert compare_texts(in_torch(module, wide), replace(program, writing=wide).open().decoder, *inputs[:2]) == 1.0


def test_another_model_is_told_from_it(module, program, inputs):
    other = Transducer(
        source_symbols=SOURCE, target_symbols=TARGET, width=16, heads=2, feed_forward=32, encoder_layers=1,
        decoder_layers=2, max_length=16,
    )  # fmt: skip
    with pytest.raises(StageError, match="does not compute what the model computes"):
        check_program(other, lambda optimize: program.open(optimize=optimize).decoder, inputs)


def test_values_are_called_after_the_modules_that_make_them(program, module):
    for graph in program.graphs.values():
        weights = {node.name for node in graph.graph.node if node.op_type in ("MatMul", "Gemm")}
        assert {name.partition("#")[0].partition("/")[0] for name in weights} <= dict(module.named_modules()).keys()
    names = [value.name for value in program.graphs["decoder"].graph.input]
    assert names[:3] == ["token", "source_mask", "cross.0.key"]
    assert names[-1] == "past.1.value"


def test_one_path_stands_for_all_files(path, module, tmp_path, inputs):
    files = [path, *external_files(path)]
    assert [file.name for file in files] == ["fp32.json", "fp32.encoder.onnx", "fp32.decoder.onnx"]
    assert size_bytes(path) == sum(file.stat().st_size for file in files)
    copy_model(path, tmp_path / "copy/model.json")
    ours, theirs = (open_model(found)(*inputs[:2]) for found in (path, tmp_path / "copy/model.json"))
    np.testing.assert_array_equal(ours[0], theirs[0])
    assert ours[0].shape == (200, HOW.max_length)
    inside = contents(path)
    assert inside.macs
    assert inside.parameters >= sum(value.numel() for value in module.parameters())
    assert {layer.name for layer in layer_sizes(path)} >= {"source.symbols", "decoder.0.cross.key", "head"}


def test_the_digest_of_the_file_proves_the_graphs(path, tmp_path):
    copied = tmp_path / "fp32.json"
    copy_model(path, copied)
    graph = tmp_path / "fp32.decoder.onnx"
    graph.write_bytes(graph.read_bytes() + b"\0")
    with pytest.raises(ArtifactError, match="missing or was changed"):
        open_model(copied)
    graph.unlink()
    with pytest.raises(ArtifactError, match="missing or was changed"):
        open_model(copied)


@pytest.mark.parametrize("name", ["../fp32.encoder.onnx", "/tmp/fp32.encoder.onnx", ".hidden", 3])
def test_graphs_elsewhere_are_refused(path, tmp_path, name):
    content = json.loads(path.read_text())
    content["graphs"]["encoder"]["file"] = name
    (tmp_path / "fp32.json").write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match="not beside it"):
        ProgramFile.read(tmp_path / "fp32.json")


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 1, "graphs": {"encoder": 1, "decoder": 2}}'])
def test_what_is_no_program_is_refused(tmp_path, text):
    (tmp_path / "fp32.json").write_text(text)
    with pytest.raises(ArtifactError, match="this is no program"):
        ProgramFile.read(tmp_path / "fp32.json")


def test_graphs_that_do_not_fit_each_other_are_refused(program, path, tmp_path):
    torch.manual_seed(0)
    wide = program_of(
        Transducer(
            source_symbols=SOURCE, target_symbols=TARGET, width=32, heads=2, feed_forward=32, encoder_layers=1,
            decoder_layers=2,
        ),
        HOW,
    )  # fmt: skip
    mixed = Deployable({"encoder": program.graphs["encoder"], "decoder": wide.graphs["decoder"]}, HOW)
    with pytest.raises(ArtifactError, match="do not fit each other") as caught:
        mixed.open()
    assert "the decoder takes cross keys and values [[2, 16]" in str(caught.value)
    assert "the encoder gives [[2, 8]" in str(caught.value)


def test_a_model_that_cannot_write_step_by_step_is_refused():
    with pytest.raises(StageError, match="cannot write step by step"):
        program_of(nn.Linear(2, 2), HOW)


@pytest.mark.parametrize("shared", ["padding", "end"])  # with the begin, as T5 and BART have it
def test_optimums_loop_writes_the_same_in_the_tokenizers_ids(program, inputs, shared):
    draw = np.random.default_rng(1)
    sides = [draw.permutation(size + 3)[:size].tolist() for size in (SOURCE, TARGET)]  # of three ids nobody knows
    for ids in sides:
        ids[1] = ids[0] if shared == "padding" else ids[2]
    reads = numbers_of(sides[0])
    source = np.array(sides[0])[inputs[0]]
    mask = inputs[1]
    expected = program.open().decoder.write(reads[source], mask)
    encoder = Session(encoder_for_optimum(program.graphs["encoder"], sides[0]))
    decoder = Session(decoder_for_optimum(program.graphs["decoder"], sides[1]))
    assert (encoder.inputs, encoder.outputs) == (("input_ids", "attention_mask"), ("last_hidden_state",))
    assert decoder.inputs[:4] == (
        "input_ids", "encoder_attention_mask", "encoder_hidden_states", "past_key_values.0.decoder.key",
    )  # fmt: skip
    assert decoder.outputs[:2] == ("logits", "present.0.decoder.key")
    (hidden,) = encoder(source, mask)
    token = np.full((len(source), 1), sides[1][1])
    past = [np.zeros((len(source), 7, 0, 5), np.float32)] * 4  # in a shape that is not the layers' own
    texts, going = [], np.ones(len(source), bool)
    for _ in range(HOW.max_length):
        logits, *past = decoder(token, mask, hidden, *past)
        assert logits.shape == (len(source), 1, 1 + max(sides[1]))
        token = logits[:, 0].argmax(axis=1)[:, None]
        going &= token[:, 0] != sides[1][2]
        texts.append(np.where(going, token[:, 0], -1))
    known = np.array([*sides[1], -1])
    ours = np.where(expected.tokens == HOW.pad, -1, known[expected.tokens])
    np.testing.assert_array_equal(np.stack(texts, axis=1), ours)


def packaged(program, folder, *, config=True, kind="pieces", pad=0, **writing):
    """Write a program's files and what else a bundle of a model of transformers has, and package them for optimum."""
    tokenizer = Tokenizer(WordLevel({f"w{number}": number for number in range(SOURCE)}, unk_token="w3")).to_str()
    sides = {
        name: {
            "kind": kind,
            **({"tokenizer": tokenizer, "ids": [pad, 1, 2, *range(3, size)]} if kind == "pieces" else {}),
        }
        for name, size in (("source", SOURCE), ("target", TARGET))
    }
    path = replace(program, writing=replace(HOW, **writing)).write(folder, "fp32")
    (folder / "vocabulary.json").write_text(json.dumps({**sides, "max_length": 9}))
    (folder / "config.json").write_text(json.dumps({"model_type": "marian", "vocab_size": 7}))
    files = dict.fromkeys(["config.json"] * config, Content("", 0))
    manifest = Manifest(FORMAT_VERSION, path.name, {}, {}, {}, files)
    return write_optimum_program(folder, manifest, folder / "package")


def test_the_package_says_how_it_writes_and_what_is_otherwise(program, tmp_path):
    first, *others = packaged(program, tmp_path, beams=3, limit=(4, 1.0)).splitlines()
    assert first == f'ORTModelForSeq2SeqLM.from_pretrained("{tmp_path / "package"}")'
    assert ["num_beams=1 writes the same" in others[0], "written_limit" in others[1]] == [True, True]
    read = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "package").glob("*.json")}
    assert (read["config"]["vocab_size"], read["config"]["decoder_start_token_id"]) == (TARGET, 1)
    assert read["generation_config"] | {"max_new_tokens": 12, "num_beams": 3} == read["generation_config"]
    assert read["tokenizer_config"]["eos_token"] == "w2"


@pytest.mark.parametrize(
    ("fields", "match"),
    [({"config": False}, "config.json"), ({"kind": "words"}, "one tokenizer"), ({"pad": -1}, "an end")],
)
def test_optimum_is_refused_what_it_cannot_read(program, tmp_path, fields, match):
    with pytest.raises(UsageError, match=match):
        packaged(program, tmp_path, **fields)
    assert not (tmp_path / "package").exists()


def test_a_causal_student_is_refused_by_optimum_with_the_reason(tmp_path):
    words = causal_zoo.task(causal_zoo.data(200)).vocabularies
    (tmp_path / "vocabulary.json").write_text(words.text)
    manifest = Manifest.__new__(Manifest)  # is not read before
    with pytest.raises(UsageError, match="(?s)ORTModelForCausalLM.*two graphs"):
        write_optimum_program(tmp_path, manifest, tmp_path / "package")
