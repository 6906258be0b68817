"""What is cut of causal models: heads, widths, layers and symbols; and what they learn and write after it."""

from dataclasses import replace

import causal_zoo
import numpy as np
import pytest
import torch
from causal_zoo import make_model
from setting import Setting

from compress import CausalLM, DecoderOnly, Distill, Greedy, Label, Prune, PruneVocabulary, Shorten
from compress.errors import ModelError, StageError
from compress.export.decoding import Writing
from compress.export.program import check_program, program_of
from compress.loss import GuidedLoss
from compress.models import load_model
from compress.progress import Reporter
from compress.stage import Execution
from compress.stages.create import Create
from compress.stages.shorten import Evenly
from compress.store.store import Store
from compress.surgery import verify
from compress.tasks import Judge, Symbols, TransductionTask
from compress.tasks.pieces import load_pieces

UPDATES = {"batch_size": 8, "optimizer": "adamw", "learning_rate": 0.01}


@pytest.fixture(scope="module", params=["causal", "gpt2", "llama", "qwen2"])
def setting(request, tmp_path_factory) -> Setting:
    """A teacher and data of which train has a few rows alone, so that many symbols are rare."""
    data = causal_zoo.data(200, before=" ")
    pieces, model = None, DecoderOnly(width=32, heads=4, feed_forward=64, decoder_layers=3, max_length=32)
    if request.param != "causal":
        folder = make_model(request.param, tmp_path_factory.mktemp(request.param))
        pieces, model = load_pieces(str(folder), continues=True), CausalLM(path=str(folder))
    train = data.train.take(np.arange(12 if pieces else 60))
    if pieces is None:
        texts, labels = train.array.copy(), train.labels.copy()
        texts[0], labels[0] = "qak", (" KAQ",)
        train = replace(train, inputs=texts, labels=labels)
    data = replace(data, roles={**data.roles, "train": train})
    task = TransductionTask.of(data, symbols=Symbols(max_length=12), judge=Judge(), pieces=pieces)
    own = Setting(
        task=task, data=data, loss=GuidedLoss(preset="word"), teacher=None,
        store=Store.open(tmp_path_factory.mktemp("cuts")), seed=0,
        execution=Execution(threads=1, precision="float32"), reporter=Reporter(quiet=True),
    )  # fmt: skip
    return replace(own, teacher=Create(model=model).run(None, *own))


def test_heads_widths_and_layers_are_pruned_and_learn_again(setting):
    stage = Prune(kept_macs_fraction=0.6, importance_batches=1, round_to=8, loss=GuidedLoss(preset="sequence"))
    stage.check(load_model(setting.teacher.path), setting.work)
    pruned = stage.run(setting.teacher, *setting)
    assert pruned.facts["kept_macs_fraction"] <= 0.6
    assert pruned.facts["masked_difference"] < 1e-9
    label = Label(decoding=Greedy(), keep_given=True)
    recover = Distill(epochs=1, loss=GuidedLoss(preset="distil-whisper"), label=label, **UPDATES)
    assert np.isfinite(recover.run(pruned, *setting).facts["final_loss"])


def test_layers_are_kept_with_their_weights(setting):
    stage = Shorten(decoder=Evenly(evenly=2))
    stage.check(load_model(setting.teacher.path), setting.work)
    shortened = stage.run(setting.teacher, *setting)
    assert shortened.facts == {"decoder": {"layers_before": 3, "kept": [0, 2]}}
    module = load_model(shortened.path)
    assert verify.against_steps(module, setting.task.batch(setting.data.select, torch.arange(8)).inputs) < 1e-9
    with pytest.raises(ModelError, match=r"(?s)no such layers.*decoder.*got:\s+encoder"):
        Shorten(encoder="every-other").check(module, setting.work)
    with pytest.raises(StageError, match="cannot be kept"):
        Shorten(decoder=(0, 3)).check(module, setting.work)


def test_rare_symbols_leave_tables_output_layer_and_vocabulary(setting):
    fewer = PruneVocabulary(min_count=2).run(setting.teacher, *setting)
    sizes = fewer.facts["symbols"]
    assert sizes["source"] == sizes["target"]
    assert sizes["source"]["after"] < sizes["source"]["before"]
    here, module = setting.reading(fewer), load_model(fewer.path)
    assert here.task.vocabularies.source == here.task.vocabularies.target
    inputs = here.task.batch(setting.data.train, torch.arange(2, 12)).inputs
    with torch.no_grad():
        assert module(*inputs).shape[2] == sizes["target"]["after"]
    assert verify.against_steps(module, inputs) < 1e-9
    taught = Distill(epochs=1, loss=GuidedLoss(preset="word"), **UPDATES).run(fewer, *setting.reading(fewer))
    assert np.isfinite(taught.facts["final_loss"])


def test_the_hidden_width_and_shares_out_of_reach_are_refused_before_anything_trains(setting):
    module = load_model(setting.teacher.path)
    with pytest.raises(ModelError, match="hidden width of a model that writes"):
        Prune(kept_macs_fraction=0.5, units=("heads", "hidden")).check(module, setting.work)
    with pytest.raises(StageError, match="kept_macs_fraction cannot be reached"):
        Prune(kept_macs_fraction=0.01).foresee(module, None, setting.work, setting.host)


@pytest.mark.slow
def test_the_program_of_what_is_cut_writes_what_torch_writes(setting):
    fewer = PruneVocabulary(min_count=2).run(setting.teacher, *setting)
    own = setting.reading(fewer)
    short = Shorten(decoder=Evenly(evenly=2)).run(fewer, *own)
    loss = GuidedLoss(preset="sequence")
    pruned = Prune(kept_macs_fraction=0.8, importance_batches=1, round_to=8, loss=loss).run(short, *own)
    module, task = load_model(pruned.path), own.reading(pruned).task
    program = program_of(module, Writing(max_length=8))
    given = [value.numpy() for value in task.batch(own.data.train, torch.arange(12)).inputs]
    report = check_program(module, lambda optimize: program.open(optimize=optimize).decoder, given)
    assert report["argmax_agreement"] == 1
