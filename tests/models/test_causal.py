"""Causal models: one pass equals steps, padding changes nothing; transformers has the same logits and texts."""

import json
from dataclasses import replace

import causal_zoo
import numpy as np
import pytest
import torch
import writing_zoo
from causal_zoo import make_model, make_tokenizer
from seq2seq_zoo import make_model as make_seq2seq
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig

from compress.errors import DataError, ModelError
from compress.export.decoding import Decoder, Writing
from compress.export.program import check_program, force, in_torch, program_of
from compress.models import CausalLM, DecoderOnly, HuggingFace, Seq2Seq, load_model, save_model
from compress.models.causal import CausalTransformer
from compress.models.causal_lm import layers_of
from compress.tasks import Judge, Symbols, TransductionTask
from compress.tasks.pieces import load_pieces
from compress.tasks.special import BEGIN, END, PAD

PUBLISHED = ["gpt2", "llama", "qwen2"]
of_published = pytest.mark.parametrize("family", PUBLISHED, indirect=True, scope="module")


@pytest.fixture(scope="module")
def data():
    return causal_zoo.data(200, before=" ")


@pytest.fixture(scope="module", params=["own", *PUBLISHED])
def family(request):
    return request.param


@pytest.fixture(scope="module")
def folder(family, tmp_path_factory):
    return None if family == "own" else make_model(family, tmp_path_factory.mktemp(family))


@pytest.fixture(scope="module")
def task(folder, data):
    pieces = None if folder is None else load_pieces(str(folder), continues=True)
    return TransductionTask.of(data, symbols=Symbols(max_length=12), judge=Judge(), pieces=pieces)


@pytest.fixture(scope="module")
def model(folder):
    return causal_zoo.TINY if folder is None else CausalLM(path=str(folder))


@pytest.fixture(scope="module")
def module(model, task):
    torch.manual_seed(0)
    found = model.build(task.signature, code=()).eval()
    model.check(found, task, where="here")
    if isinstance(found, CausalTransformer):  # biases other than zero, and more than the last symbol in a logit
        for name, value in found.named_parameters():
            nn.init.normal_(value, std=0.02 if name == "symbols.weight" else 0.5)
    return found


@pytest.fixture(scope="module")
def batch(task, data):
    return task.batch(data.select, torch.arange(12))


def test_symbol_by_symbol_is_the_same_as_all_at_once(module, batch):
    decoder = in_torch(module, Writing(max_length=12))
    given = [value.numpy() for value in batch.inputs]
    with torch.no_grad():
        whole = module(*batch.inputs).numpy()
    assert np.abs(force(decoder, *given) - whole)[batch.units.numpy()].max() < 1e-4
    written = [decoder.write(given[0][[row]][:, :size], given[1][[row]][:, :size]).tokens[0]
               for row, size in enumerate(given[1].sum(axis=1))]  # fmt: skip
    assert np.array_equal(written, decoder.write(*given[:2]).tokens)
    assert len({tuple(text) for text in written}) > 1


def test_neither_padding_nor_what_else_is_in_a_batch_changes_a_text(module, batch):
    module = module.double() if isinstance(module, CausalTransformer) else module
    exact = 1e-12 if isinstance(module, CausalTransformer) else 1e-4
    prompt, mask, completion = batch.inputs
    row = int(mask.sum(dim=1).argmin())
    size, length = int(mask[row].sum()), int(batch.units[row].sum())
    with torch.no_grad():
        alone = module(prompt[[row], :size], mask[[row], :size], completion[[row], :length])[0]
        padded = module(prompt, mask, completion)[row, :length]
        wide = nn.functional.pad(prompt, (0, 5), value=7)
        wider = module(wide, nn.functional.pad(mask, (0, 5)), nn.functional.pad(completion, (0, 3)))[row, :length]
    assert size < prompt.shape[1]
    assert (alone - padded).abs().max() < exact
    assert (alone - wider).abs().max() < exact
    module.float()


def test_the_loss_of_a_symbol_is_the_same_in_every_part_of_an_update(module, task, batch, data):
    whole = task.hard_loss(task.forward(module, batch), batch)
    parts = [task.batch(data.select, part) for part in torch.arange(12).split(5)]
    apart = torch.cat([task.hard_loss(task.forward(module, part), part) for part in parts])
    assert len(whole) == task.units(data.select)[:12].sum()  # of the completions and their ends alone
    assert (whole - apart).abs().max() < 1e-4


def test_a_symbol_sees_what_was_before_it_alone(module, batch):
    prompt, mask, completion = batch.inputs
    with torch.no_grad():
        before = module(prompt, mask, completion)
        later = completion.clone()
        later[:, 2] = 4 + (later[:, 2] + 1) % 8
        after = module(prompt, mask, later)
        other = prompt.clone()
        other[:, 0] = 4 + (other[:, 0] + 1) % 8
        changed = module(other, mask, completion)
    assert torch.equal(after[:, :2], before[:, :2])
    assert not torch.allclose(after[:, 2:], before[:, 2:])
    assert not torch.allclose(changed[:, 0], before[:, 0])


def test_gradients_reach_every_parameter(module, task, batch):
    module.train()
    task.hard_loss(task.forward(module, batch), batch).mean().backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in module.parameters())
    module.zero_grad()
    module.eval()


def test_a_stored_model_is_the_same_without_its_folder(model, task, module, batch, tmp_path):
    save_model(module, tmp_path, model=model.model_copy(update={"beams": 3}), signature=task.signature)
    stored = json.loads((tmp_path / "structure.json").read_text())["model"]
    assert stored["beams"] == 3
    assert not stored.get("pretrained", False)
    again = load_model(tmp_path)
    with torch.no_grad():
        assert torch.equal(again(*batch.inputs), module(*batch.inputs))


@pytest.mark.slow
def test_the_program_writes_what_the_module_writes(model, task, module, batch):
    if isinstance(model, CausalLM):  # fewer layers take less time
        module = model.model_copy(update={"decoder_layers": 1}).build(task.signature, code=()).eval()
    program = program_of(module, Writing(max_length=6))
    inputs = [value.numpy() for value in batch.inputs]
    report = check_program(module, lambda optimize: program.open(optimize=optimize).decoder, inputs)
    assert report["argmax_agreement"] == 1
    decoder = program.open().decoder
    cross = decoder.encode(*inputs[:2])
    token, past = decoder.begin(len(inputs[0]))
    other = Decoder(decoder.encode, lambda *given: [decoder.step(*given)[0], *past], decoder.cache, decoder.writing)
    with pytest.raises(ValueError, match="expected a cache"):
        other.advance(token, inputs[1], cross, past)


def published(folder, task, batch):
    """The model as transformers loads it, and our numbers as its own."""
    prompt, mask, completion = batch.inputs
    ids = torch.tensor(task.vocabularies.target.ids)
    return AutoModelForCausalLM.from_pretrained(folder).eval(), ids, prompt, mask, completion


@of_published
def test_logits_are_those_of_transformers_for_a_prompt_and_its_completion(folder, task, module, batch):
    theirs, ids, prompt, mask, completion = published(folder, task, batch)
    with torch.no_grad():
        found = module(prompt, mask, completion)
    real = ids >= 0
    for row in range(len(prompt)):
        size, length = int(mask[row].sum()), int(batch.units[row].sum())
        whole = torch.cat([ids[prompt[row, :size]], ids[completion[row, 1:length]]])
        with torch.no_grad():
            expected = theirs(input_ids=whole[None]).logits[0, size - 1 :]
        assert (found[row, :length][:, real] - expected[:, ids[real]]).abs().max() < 1e-4
        total = found[row, :length].softmax(dim=1)[:, ~real].sum()
        assert float(total) < 1e-6  # what it has not takes no probability from what it has


def test_no_logits_are_made_of_a_prompt(folder, module, batch):
    read, head = [], module.head if folder is None else module.model.get_output_embeddings()
    with torch.no_grad(), head.register_forward_pre_hook(lambda _, given: read.append(given[0].shape[1])):
        module(*batch.inputs)
    assert read == [batch.inputs[2].shape[1]]


@of_published
def test_greedy_texts_are_those_of_generate(folder, task, module, batch):
    theirs, ids, prompt, mask, _ = published(folder, task, batch)
    pieces = task.vocabularies.target
    written = in_torch(module, Writing(max_length=10)).write(prompt.numpy(), mask.numpy())
    never = [[own] for own in range(theirs.config.vocab_size) if own not in ids[2:] or own == ids[BEGIN]]
    for row, ours in enumerate(written.tokens):
        given = ids[prompt[row, : int(mask[row].sum())]][None]
        made = theirs.generate(
            given, attention_mask=torch.ones_like(given), do_sample=False, max_new_tokens=10, bad_words_ids=never,
            pad_token_id=int(ids[END]),
        )[0, given.shape[1] :].tolist()  # fmt: skip
        end = int(ids[END])
        made = made[: made.index(end)] if end in made else made
        assert [int(ids[number]) for number in ours if number != PAD] == made
        assert pieces.decode(ours.tolist()) == pieces._tokenizer.decode(made)


@of_published
@pytest.mark.parametrize("how", ["first", "evenly"])
def test_some_layers_are_kept_with_their_weights(folder, task, module, batch, how):
    cut = CausalLM(path=str(folder), decoder_layers=2, layers=how).build(task.signature, code=()).eval()
    kept = {"first": [0, 1], "evenly": [0, 2]}[how]
    for layer, position in zip(layers_of(cut.model), kept, strict=True):
        expected = layers_of(module.model)[position].state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in layer.state_dict().items())
    given = [value.numpy() for value in batch.inputs]
    with torch.no_grad():
        whole = cut(*batch.inputs).numpy()
    real = batch.units.numpy()
    assert np.abs(force(in_torch(cut, Writing(max_length=4)), *given) - whole)[real].max() < 1e-4


@of_published
def test_a_model_from_scratch_has_the_symbols_of_the_task_and_a_sign_between(folder, data):
    task = causal_zoo.task(data)
    model = CausalLM(path=str(folder), pretrained=False)
    module = model.build(task.signature, code=()).eval()
    model.check(module, task, where="here")
    given = task.batch(data.select, torch.arange(3))
    assert task.forward(module, given).shape == (given.num_units, len(task.classes))
    assert module.separated
    decoder = in_torch(module, Writing(max_length=4))
    with torch.no_grad():
        whole = module(*given.inputs).numpy()
    forced = force(decoder, *(value.numpy() for value in given.inputs))
    assert np.abs(forced - whole)[given.units.numpy()].max() < 1e-4


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    return make_model("gpt2", tmp_path_factory.mktemp("gpt2"))


def test_what_is_written_keeps_the_space_that_it_begins_with(gpt2):
    pieces = load_pieces(str(gpt2), continues=True)
    assert pieces.decode(pieces.encode(" ETAK")) == " ETAK"
    assert pieces.encode(" ETAK") != pieces.encode("ETAK")
    assert pieces.ids[PAD] == pieces.ids[BEGIN] == -1
    assert pieces.ids[END] == 0


def test_encoder_decoders_and_causal_models_are_not_taken_for_each_other(gpt2, data, tmp_path):
    answering, continuing = writing_zoo.task(writing_zoo.data(200, test=0.2)), causal_zoo.task(data)
    for wrong, task, words in (
        (causal_zoo.TINY, answering, "transducer and seq2seq write"),
        (CausalLM(path=str(gpt2)), answering, "transducer and seq2seq write"),
        (writing_zoo.TINY, continuing, "causal and causal_lm continue"),
        (Seq2Seq(path=str(gpt2)), continuing, "causal and causal_lm continue"),
        (HuggingFace(path=str(gpt2)), continuing, "causal or causal_lm"),
    ):
        with pytest.raises(ModelError, match=words):
            wrong.build(task.signature, code=())
    with pytest.raises(ModelError, match="the family causal_lm"):
        Seq2Seq(path=str(gpt2)).build(answering.signature, code=())
    translator = make_seq2seq("marian", tmp_path)
    with pytest.raises(ModelError, match="marian, which has an encoder"):
        CausalLM(path=str(translator), pretrained=False).build(continuing.signature, code=())
    with pytest.raises(ModelError, match="sets an end of a sequence after every text"):
        load_pieces(str(translator), continues=True)


def test_what_does_not_fit_is_refused(gpt2, data, tmp_path):
    task = causal_zoo.task(data)
    short = causal_zoo.TINY.model_copy(update={"max_length": 20})
    with pytest.raises(ModelError, match="too few positions for a prompt and its completion"):
        short.check(short.build(task.signature, code=()), task, where="here")
    pieces = load_pieces(str(gpt2), continues=True)
    long = TransductionTask.of(data, symbols=Symbols(max_length=25), judge=Judge(), pieces=pieces)
    model = CausalLM(path=str(gpt2))
    with pytest.raises(ModelError, match="at most 24"):
        model.check(model.build(long.signature, code=()), long, where="here")
    with pytest.raises(ModelError, match="other symbols than the model's tokenizer"):
        model.build(task.signature, code=())
    with pytest.raises(ModelError, match="at most 3"):
        model.model_copy(update={"decoder_layers": 4}).build(long.signature, code=())
    with pytest.raises(ValueError, match="of a model from scratch"):
        CausalLM(path=str(gpt2), pretrained=False, decoder_layers=1)
    with pytest.raises(DataError, match="in the symbols of its prompt"):
        TransductionTask.of(data, symbols=Symbols(target_text="words", max_length=12), judge=Judge())
    make_tokenizer(tmp_path)
    GPTNeoXConfig(vocab_size=60).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="gpt_neox, which is not known"):
        CausalLM(path=str(tmp_path), pretrained=False).build(task.signature, code=())
    with pytest.raises(ValueError, match="4 heads divide"):
        DecoderOnly(width=18)


def test_a_tokenizer_without_an_end_is_refused(tmp_path):
    make_tokenizer(tmp_path, family="llama", end=False)
    GPT2Config().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="has no end of a sequence"):
        load_pieces(str(tmp_path), continues=True)


def test_a_tokenizer_with_fewer_rows_than_tokens_is_refused(gpt2, data, tmp_path):
    pieces = load_pieces(str(gpt2), continues=True)
    model = AutoModelForCausalLM.from_pretrained(gpt2)
    model.resize_token_embeddings(max(pieces.ids))
    make_tokenizer(tmp_path)
    model.save_pretrained(tmp_path)
    task = TransductionTask.of(data, symbols=Symbols(max_length=12), judge=Judge(), pieces=pieces)
    with pytest.raises(ModelError, match="tokens that the model does not know"):
        CausalLM(path=str(tmp_path)).build(task.signature, code=())
    assert replace(task, vocabularies=replace(task.vocabularies, continues=False)).digest != task.digest


def test_a_completion_with_a_sign_of_the_tokenizer_is_refused(gpt2, data):
    pieces = load_pieces(str(gpt2), continues=True)
    sign = json.loads(pieces.tokenizer)["added_tokens"][0]["content"]
    train = data.roles["train"]
    labels = train.labels.copy()
    labels[3] = (labels[3][0] + sign,)
    marked = replace(data, roles=data.roles | {"train": replace(train, labels=labels)})
    with pytest.raises(DataError, match="sign of the tokenizer") as refused:
        TransductionTask.of(marked, symbols=Symbols(max_length=12), judge=Judge(), pieces=pieces)
    assert "train, sample 3" in str(refused.value)
