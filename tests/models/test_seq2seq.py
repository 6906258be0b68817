"""Encoder-decoders of transformers against transformers: logits, cached steps, greedy texts, layers, programs."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers
import writing_zoo
from seq2seq_zoo import make_model, make_tokenizer
from transformers import AutoModelForSeq2SeqLM, GPT2Config, MBartConfig, T5Config

from compress.errors import ModelError
from compress.export.decoding import Writing
from compress.export.program import check_program, force, in_torch, program_of
from compress.models import Seq2Seq, load_model, load_structure, save_model
from compress.models.layer_lists import spread
from compress.models.seq2seq import layers_of
from compress.tasks import Judge, Symbols, TransductionTask
from compress.tasks.pieces import load_pieces
from compress.tasks.special import BEGIN, END, PAD
from compress.tasks.symbols import Vocabularies
from compress.training.decoding import Beam, Voices


@pytest.fixture(scope="module")
def data():
    return writing_zoo.data(200, test=0.2)


@pytest.fixture(scope="module", params=["marian", "t5", "bart", "mt5", "mbart"])
def folder(request, tmp_path_factory):
    return make_model(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def task(folder, data):
    return TransductionTask.of(data, symbols=Symbols(max_length=12), judge=Judge(), pieces=load_pieces(str(folder)))


@pytest.fixture(scope="module")
def module(folder, task):
    model = Seq2Seq(path=str(folder))
    found = model.build(task.signature, code=()).eval()
    model.check(found, task, where="here")
    return found


@pytest.fixture(scope="module")
def batch(task, data):
    return task.batch(data.select, torch.arange(12))


def test_logits_are_those_of_transformers_in_our_order(folder, task, module, batch):
    ids = torch.tensor(task.vocabularies.target.ids)
    theirs = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    source, mask, target = batch.inputs
    with torch.no_grad():
        expected = theirs(input_ids=ids[source], attention_mask=mask, decoder_input_ids=ids[target]).logits[..., ids]
        found = module(source, mask, target)
    assert ids[BEGIN] == theirs.config.decoder_start_token_id
    assert (found - expected)[batch.units].abs().max() < 1e-4 * expected.abs().max().clamp(min=1)


def test_greedy_texts_are_those_of_generate(folder, task, module, batch):
    source, mask, _ = batch.inputs
    pieces = task.vocabularies.target
    ids = torch.tensor(pieces.ids)
    theirs = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    made = theirs.generate(
        ids[source], attention_mask=mask, num_beams=1, do_sample=False, max_new_tokens=10,
        bad_words_ids=[[int(ids[PAD])]],
    )  # fmt: skip
    written = in_torch(module, Writing(max_length=10, first=pieces.first)).write(source.numpy(), mask.numpy())
    for ours, row in zip(written.tokens, made[:, 1:], strict=True):
        texts = [[int(ids[number]) for number in ours if number != PAD], row.tolist()]
        end = int(ids[END])
        assert texts[0] == texts[1][: texts[1].index(end) if end in texts[1] else None]
        assert pieces.decode(number for number in ours.tolist()) == pieces._tokenizer.decode(texts[1]).strip()
    # So small an mBART repeats one symbol after the sign that it is made to write.
    # Versions draw other weights, and with those of transformers 4 a Marian writes little that differs.
    least = 3 if transformers.__version__.startswith("5.") else 1
    assert len({tuple(row) for row in written.tokens.tolist()}) > least or pieces.first is not None


@pytest.mark.slow
def test_the_program_writes_what_the_module_writes(folder, task, batch):
    module = Seq2Seq(path=str(folder), encoder_layers=1, decoder_layers=1).build(task.signature, code=()).eval()
    program = program_of(module, Writing(max_length=6))
    inputs = [value.numpy() for value in batch.inputs]
    report = check_program(module, lambda optimize: program.open(optimize=optimize).decoder, inputs)
    assert report["argmax_agreement"] == 1


def test_a_stored_model_is_the_same_without_its_folder(folder, task, module, batch, tmp_path):
    save_model(module, tmp_path, model=Seq2Seq(path=str(folder), beams=3), signature=task.signature)
    stored = json.loads((tmp_path / "structure.json").read_text())["model"]
    assert (stored["path"], stored["pretrained"], stored["beams"]) == (folder.name, False, 3)
    shipped = load_structure(tmp_path).model.files(task.signature, problem=task.problem, preprocessing={})
    config = json.loads(shipped["config.json"])
    assert (config["model_type"], config["vocab_size"]) == (module.model.config.model_type, len(task.classes))
    assert not {"num_beams", "max_length", "forced_eos_token_id"} & config.keys()  # they would overrule what it says
    again = load_model(tmp_path)
    with torch.no_grad():
        assert torch.equal(again(*batch.inputs), module(*batch.inputs))


@pytest.mark.parametrize("how", ["first", "last", "evenly"])
def test_some_layers_are_kept_with_their_weights(folder, task, module, batch, how):
    model = Seq2Seq(path=str(folder), encoder_layers=1, decoder_layers=2, layers=how)
    cut = model.build(task.signature, code=()).eval()
    kept = spread(3, 2, how=how)
    whole, ours = layers_of(module.model, "decoder"), layers_of(cut.model, "decoder")
    for layer, position in zip(ours, kept, strict=True):
        expected = whole[position].state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in layer.state_dict().items() if name in expected)
    source, mask, target = batch.inputs
    decoder = in_torch(cut, Writing(max_length=4))
    given = [np.ascontiguousarray(value.numpy()[:4]) for value in (source, mask, target)]
    with torch.no_grad():
        expected = cut(*map(torch.from_numpy, given)).numpy()
    real = batch.units[:4].numpy()
    assert np.abs(expected - force(decoder, *given))[real].max() < 1e-4


def test_layers_are_spread_from_the_first_to_the_last():
    assert [spread(12, count, how="evenly") for count in (1, 3, 6)] == [[0], [0, 6, 11], [0, 2, 4, 7, 9, 11]]


def test_a_model_from_scratch_has_the_symbols_of_the_task(folder, data):
    task = writing_zoo.task(data)
    model = Seq2Seq(path=str(folder), pretrained=False)
    module = model.build(task.signature, code=())
    model.check(module, task, where="here")
    given = task.batch(data.select, torch.arange(3))
    assert task.forward(module, given).shape == (given.num_units, len(task.classes))


def test_the_sign_of_a_language_is_forced_and_learnt_where_it_is_not_the_tokenizers_own(folder, data, task, module):
    pieces, text = task.vocabularies.target, str(data.select.labels[0][0])
    if folder.name.startswith("mbart"):
        written, read = pieces.encode(text), pieces.encode_all([text], special=True)[0]
        assert [pieces.names[numbers[0]] for numbers in (written, read)] == ["<sounds>", "<words>"]
        assert written[1:] == read[1:-1]
        assert pieces.decode(written) == text
        assert Vocabularies.read(task.vocabularies.text) == task.vocabularies
    else:
        assert pieces.first is None
        assert "first" not in pieces.dump()
    how = Writing(max_length=6, beams=3, first=pieces.first)
    batch = task.batch(data.select, torch.arange(12))
    ids, mask = batch.inputs[:2]
    ours = in_torch(module, how).write(ids.numpy(), mask.numpy())
    voices = Voices([module], [1.0], ids, mask, first=pieces.first)
    with torch.no_grad():
        theirs = Beam(size=3).write(voices, steps=torch.full((12,), 6), generator=torch.Generator())
    assert (ours.tokens == theirs.ids[:, 0].numpy()).all()
    np.testing.assert_allclose(ours.log_probability, theirs.log_probability[:, 0], atol=1e-3)
    if pieces.first is not None:
        assert (ours.tokens[:, 0] == pieces.first).all()


def test_a_model_of_several_languages_says_which_it_writes(tmp_path):
    make_tokenizer(tmp_path, begins="<words> ")
    MBartConfig(decoder_start_token_id=2, forced_bos_token_id=None).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="in which language"):
        load_pieces(str(tmp_path))


def test_what_is_behind_the_end_is_read_and_not_written(tmp_path):
    make_tokenizer(tmp_path)
    MBartConfig(decoder_start_token_id=5).save_pretrained(tmp_path)  # as the first mBART: the sign begins the decoder
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    content["post_processor"]["single"].append({"SpecialToken": {"id": "<words>", "type_id": 0}})
    path.write_text(json.dumps(content))
    pieces = load_pieces(str(tmp_path))
    (read,), (written,) = pieces.encode_all(["ka"], special=True), pieces.encode_all(["ka"])
    assert [pieces.names[number] for number in read[-2:]] == ["<end>", "<words>"]
    assert written == read[:-2]


def test_what_is_no_encoder_decoder_is_refused(tmp_path, task):
    make_tokenizer(tmp_path)
    GPT2Config(vocab_size=60, n_layer=1, n_embd=8, n_head=2).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="no encoder-decoder that is known"):
        Seq2Seq(path=str(tmp_path), pretrained=False).build(task.signature, code=())


def test_a_tokenizer_without_an_end_is_refused(tmp_path):
    make_tokenizer(tmp_path, end=None)
    T5Config(decoder_start_token_id=1).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="has no end of a sequence"):
        load_pieces(str(tmp_path))


def test_what_does_not_fit_is_refused(folder, data, task):
    long = TransductionTask.of(data, symbols=Symbols(max_length=64), judge=Judge(), pieces=task.vocabularies.source)
    model = Seq2Seq(path=str(folder))
    module = model.build(task.signature, code=())
    if module.max_positions is not None:
        with pytest.raises(ModelError, match="too few positions"):
            model.check(module, long, where="here")
    with pytest.raises(ModelError, match="other symbols than the model's tokenizer"):
        model.build(writing_zoo.task(data).signature, code=())
    with pytest.raises(ModelError, match="at most 3"):
        model.model_copy(update={"decoder_layers": 4}).build(task.signature, code=())
    with pytest.raises(ValueError, match="of a model from scratch"):
        Seq2Seq(path=str(folder), pretrained=False, decoder_layers=1)


def test_settings_of_generate_that_are_not_followed_are_told(folder, task, module, tmp_path):
    model = Seq2Seq(path=str(folder))
    assert model.tell(module) == ()
    assert (
        model.model_copy(update={"beams": 3}).tell(module)[0].startswith("its generation_config asks for num_beams 1;")
    )
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    asked = {"no_repeat_ngram_size": 2, "num_beams": 4, "length_penalty": 2.0, "min_length": 0, "max_length": 99}
    file = other / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | asked))
    model = Seq2Seq(path=str(other))
    told = model.tell(model.build(task.signature, code=()))
    asks = "its generation_config asks for no_repeat_ngram_size 2, num_beams 4"
    assert told == (f"{asks}; here it writes with beams: 1, and is scored so",)
    beam = model.model_copy(update={"beams": 4})
    assert "length_penalty 2.0, no_repeat_ngram_size 2;" in beam.tell(beam.build(task.signature, code=()))[0]
    file.write_text(json.dumps(json.loads(file.read_text()) | {"do_sample": True, "top_p": 0.9}))
    assert (
        "do_sample True, no_repeat_ngram_size 2, num_beams 4, top_p 0.9;"
        in model.tell(model.build(task.signature, code=()))[0]
    )
