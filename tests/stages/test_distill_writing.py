"""A teacher that writes is trained, and a student learns from it: symbol by symbol, and from what it wrote."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import writing_zoo
from scipy.special import softmax
from setting import Setting

from compress import Beam, Distill, Greedy, Label, Mlp, OnPolicy, Optimization, Targets, Train, WrittenLimit, distill
from compress.data.answers import objects
from compress.data.samples import Samples
from compress.errors import ArtifactError, DataError, StageError
from compress.loss import GuidedLoss
from compress.models import load_model
from compress.progress import Reporter
from compress.stage import Execution
from compress.stages.create import Create
from compress.store.store import Store
from compress.tasks.symbols import END
from compress.training import decoding, writing
from compress.training.backward import Backward
from compress.training.inference import predict
from compress.training.label import label
from compress.training.loader import RoleLoader
from compress.training.on_policy import on_policy


class Recorded:
    """A recorder that keeps what it is given."""

    def __init__(self):
        self.points = []

    def metrics(self, values, *, step):
        self.points.append((step, dict(values)))


UPDATES = {"batch_size": 32, "optimizer": "adamw", "learning_rate": 0.01, "weight_decay": 0.01}


@pytest.fixture(scope="module")
def setting(tmp_path_factory) -> Setting:
    """A teacher that writes most words right, and the data."""
    data = writing_zoo.data()
    setting = Setting(
        task=writing_zoo.task(data),
        data=data,
        loss=GuidedLoss(preset="word"),
        teacher=None,
        store=Store.open(tmp_path_factory.mktemp("writing")),
        seed=0,
        execution=Execution(threads=1, precision="float32"),
        reporter=Reporter(quiet=True),
    )
    fresh = Create(model=writing_zoo.TINY).run(None, *setting)
    return replace(setting, teacher=Train(epochs=30, label_smoothing=0.05, **UPDATES).run(fresh, *setting))


def forced(artifact, setting: Setting) -> float:
    """Share of next symbols that are right on select."""
    logits = predict(load_model(artifact.path), setting.task, setting.host, setting.data.select)
    return setting.task.tally(logits.numpy(), setting.data.select).value


def test_a_teacher_learns_by_teacher_forcing(setting):
    assert forced(setting.teacher, setting) > 0.85  # in one of twenty the next symbol is a matter of taste


def test_an_interrupted_training_of_tied_weights_goes_on_to_the_same_bits(setting, tmp_path):
    stage, model = Train(epochs=1, **UPDATES), Create(model=writing_zoo.SMALLER.model_copy(update={"dropout": 0.2}))
    undisturbed, disturbed = (replace(setting, store=Store.open(tmp_path / name)) for name in ("one", "other"))
    expected = stage.run(model.run(None, *undisturbed), *undisturbed)
    created, asked = model.run(None, *disturbed), iter([False] * 5)
    with pytest.raises(KeyboardInterrupt):
        stage.run(created, *replace(disturbed, interrupted=lambda: next(asked, True)))
    assert stage.run(created, *disturbed).digest == expected.digest


def test_word_level_distillation_compares_every_symbol(setting):
    student = Create(model=writing_zoo.SMALLER).run(None, *setting)
    taught = Distill(epochs=8, **UPDATES).run(student, *setting)
    assert forced(taught, setting) > forced(student, setting) + 0.3
    module, teacher = load_model(taught.path), load_model(setting.teacher.path)
    ours, theirs = (predict(found, setting.task, setting.host, setting.data.select) for found in (module, teacher))
    units = setting.task.units(setting.data.select).sum()
    assert ours.shape == theirs.shape == (units, len(setting.task.classes))
    divergence = (theirs.softmax(1) * (theirs.log_softmax(1) - ours.log_softmax(1))).sum(1).mean()
    fresh = predict(load_model(student.path), setting.task, setting.host, setting.data.select)
    before = (theirs.softmax(1) * (theirs.log_softmax(1) - fresh.log_softmax(1))).sum(1).mean()
    assert float(divergence) < float(before) / 2


def test_stored_outputs_are_those_of_every_sample_in_its_order(setting):
    from compress.training.teacher import teacher_outputs

    outputs = teacher_outputs(setting.work, setting.host, setting.data.train, views=(None,))
    index = torch.tensor([7, 3, 40])
    batch = setting.task.batch(setting.data.train, index)
    with torch.no_grad():
        live = setting.task.forward(load_model(setting.teacher.path), batch)
    assert np.allclose(outputs(batch).logits[0], live, atol=1e-4)


SEQUENCE = GuidedLoss(preset="sequence")


def label_with(setting: Setting, **fields):
    return label(setting.work, setting.host, Label.model_validate(fields))


def written(samples) -> set[tuple[str, str]]:
    return {(source, text) for source, (text,) in zip(samples.inputs, samples.labels, strict=True)}


def right_rate(samples) -> float:
    """Share of texts that are among the right ones, by the rule that the data follow."""
    known: dict[str, set[str]] = {}
    for word, sounds in writing_zoo.rows():
        known.setdefault(word, set()).add(sounds)
    found = written(samples)
    return sum(text in known[source] for source, text in found) / len(found)


def test_the_best_of_a_beam_is_learnt_once_for_each_source(setting):
    data, counts = label_with(setting, decoding={"beam": {"size": 3}})
    assert counts.sources == len(set(setting.data.train.inputs))
    assert counts.learnt == len(set(data.train.inputs)) >= 0.98 * counts.sources
    assert counts.texts == counts.sources
    assert counts.seconds > 0
    assert counts.symbols >= 3 * sum(len(text.split()) + 1 for (text,) in data.train.labels)
    assert counts.learnt == len(data.train) == counts.sources - counts.runaway - counts.empty
    assert counts.exact_match > 0.7
    assert counts.exact_match == pytest.approx(right_rate(data.train), abs=0.02)
    assert data.select is setting.data.select


def test_what_runs_beyond_its_limit_is_counted_and_not_learnt(setting):
    limit = WrittenLimit(symbols=2, per_source_symbol=0.5)
    task = replace(setting.task, vocabularies=replace(setting.task.vocabularies, written_limit=limit))
    assert task.digest != setting.task.digest
    data, counts = label_with(replace(setting, task=task), decoding="greedy")
    assert 0 < counts.runaway < counts.sources
    assert counts.learnt == counts.sources - counts.runaway - counts.empty
    for source, text in written(data.train):
        assert len(text.split()) + 1 <= 2 + len(source) // 2
    batches = own_texts(
        replace(setting, task=task), load_model(setting.teacher.path), OnPolicy(fraction=1), batch_size=64
    )
    sources = by_sample(batches)
    lengths = task.sources(setting.data.train).lengths
    assert all(len(text) <= 2 + lengths[sample] // 2 for sample, text in sources.items())
    never = replace(
        task, vocabularies=replace(task.vocabularies, written_limit=WrittenLimit(symbols=1, per_source_symbol=0))
    )
    with pytest.raises(StageError, match="nothing that the teachers wrote"):
        label_with(replace(setting, task=never), decoding="greedy")


def test_interpolation_takes_what_is_nearest_and_rejection_what_is_right(setting):
    first, _ = label_with(setting, decoding={"beam": {"size": 4, "best": 4}})
    near, _ = label_with(setting, decoding={"beam": {"size": 4, "best": 4}}, choose="nearest")
    assert right_rate(near.train) > right_rate(first.train)
    only, counts = label_with(setting, decoding={"beam": {"size": 4, "best": 4}}, choose="all", max_error_rate=0)
    assert right_rate(only.train) == 1
    assert counts.wrong > 0
    assert written(near.train) - written(only.train) == {
        pair for pair in written(near.train) if pair not in set(writing_zoo.rows())
    }


def test_the_unlikeliest_are_dropped_and_what_is_given_may_stay(setting):
    whole, _ = label_with(setting, decoding="greedy")
    few, counts = label_with(setting, decoding="greedy", drop_fraction=0.25)
    assert counts.unlikely == int(0.25 * len(whole.train))
    assert right_rate(few.train) > right_rate(whole.train)
    sure, counts = label_with(setting, decoding="greedy", min_log_probability=-0.1)
    assert 0 < len(sure.train) == len(whole.train) - counts.unlikely < len(whole.train)
    both, _ = label_with(setting, decoding="greedy", keep_given=True)
    assert len(both.train) == len(whole.train) + len(setting.data.train)
    with pytest.raises(StageError, match="nothing that the teachers wrote"):
        label_with(setting, decoding="greedy", min_log_probability=-1e-12)


def test_further_sources_are_written_but_for_those_of_a_role(setting, tmp_path):
    words = [word for word, _ in writing_zoo.rows(900, seed=1)]
    taken = {text for samples in setting.data.roles.values() for text in samples.inputs}
    path = tmp_path / "words.txt"
    path.write_text("\n".join([*words, "", *setting.data.test.inputs]))
    data, counts = label_with(setting, decoding="greedy", sources=path)
    assert counts.further == len(set(words) - taken)
    assert counts.taken == len({*words, *setting.data.test.inputs} & taken) >= len(setting.data.test.inputs)
    assert str(counts).startswith(f"{counts.taken:,} further sources are left out, because a role has them; ")
    (told,) = Label(sources=path).tell_sources(setting.data)
    assert f"test {len(set(setting.data.test.inputs))}," in told
    assert Label().tell_sources(setting.data) == ()
    assert not set(data.train.inputs) & set(setting.data.test.inputs)
    missing = {*words, *setting.data.train.inputs} - (taken - {*setting.data.train.inputs}) - {*data.train.inputs}
    assert len(missing) == counts.runaway + counts.empty
    with pytest.raises(DataError, match="cannot be read"):
        label_with(setting, decoding="greedy", sources=tmp_path / "none.txt")


def test_what_was_written_is_stored_by_shard_and_used_again(setting, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "SHARD", 100)
    setting = replace(setting, store=Store.open(tmp_path / "store"))
    first, _ = label_with(setting, decoding={"sample": {"texts": 2}}, choose="all")
    shards = [*(tmp_path / "store" / "artifacts").glob("*/texts.npz")]
    assert len(shards) == -(-len(set(setting.data.train.inputs)) // 100)
    shards[0].write_bytes(shards[0].read_bytes()[:-10])  # damage is made anew
    monkeypatch.setattr(decoding.Beam, "write", None)
    again, _ = label_with(setting, decoding={"sample": {"texts": 2}}, choose="all", max_error_rate=9)
    assert first.train.digest == again.train.digest


def test_an_ensemble_writes_together(setting):
    fresh = Create(model=writing_zoo.TINY).run(None, *replace(setting, seed=1))
    second = Train(epochs=6, **UPDATES).run(fresh, *setting)
    together = replace(setting, ensemble=[(second, 0.25)])
    _, counts = label_with(together, decoding="greedy")
    assert counts.exact_match > 0.6


def test_sequence_level_distillation_learns_what_the_teacher_wrote(setting):
    student = Create(model=writing_zoo.SMALLER).run(None, *setting)
    stage = Distill(epochs=8, loss=SEQUENCE, label=Label(decoding=Beam(size=3)), **UPDATES)
    assert stage.guided_by(SEQUENCE)
    taught = stage.run(student, *setting)
    assert taught.facts["label"]["learnt"] > 0
    assert forced(taught, setting) > forced(student, setting) + 0.3
    assert taught.key == stage.key(student, *setting)
    plain = Distill(epochs=8, loss=SEQUENCE, **UPDATES)
    assert "label" not in plain.inputs(student, *setting)["fields"]
    other = stage.model_copy(update={"label": Label(decoding=Beam(size=3), choose="first", drop_fraction=0.1)})
    assert len({found.key(student, *setting) for found in (plain, stage, other)}) == 3


def test_both_levels_at_once_force_what_was_written(setting):
    student = Create(model=writing_zoo.SMALLER).run(None, *setting)
    loss = GuidedLoss(preset="distil-whisper")
    taught = Distill(epochs=4, loss=loss, label=Label(decoding=Greedy()), **UPDATES).run(student, *setting)
    assert forced(taught, setting) > forced(student, setting) + 0.2


@pytest.fixture(scope="module")
def backward(setting):
    """A model of sources and targets in each other's place, trained a little."""
    swapped = {
        role: Samples(objects(text for (text, *_) in samples.labels), objects((word,) for word in samples.inputs))
        for role, samples in setting.data.roles.items()
    }
    data = replace(setting.data, roles=swapped)
    task = writing_zoo.task(data, text="words", target_text="characters")
    own = replace(setting, task=task, data=data)
    return Train(epochs=5, **UPDATES).run(Create(model=writing_zoo.TINY).run(None, *own), *own)


def test_the_pairs_that_a_backward_model_finds_worst_are_dropped(setting, backward):
    whole, _ = label_with(setting, decoding="greedy")
    few, counts = label_with(setting, decoding="greedy", backward={"artifact": backward.path, "drop_fraction": 0.2})
    assert counts.backward == int(0.2 * len(whole.train)) == len(whole.train) - len(few.train)
    assert f"{counts.backward} with a source that the backward model finds unlikely" in str(counts)
    pairs = [(word, text) for word, (text,) in zip(whole.train.inputs, whole.train.labels, strict=True)]
    module, own = load_model(backward.path), setting.task.reading(backward.path)
    expected = []
    for word, text in pairs:
        source = torch.tensor([own.vocabularies.source.encode(text)])
        target = [*own.vocabularies.target.encode(word), END]
        with torch.no_grad():
            logits = module(source, torch.ones_like(source), torch.tensor([[1, *target[:-1]]]))
        expected.append(float(logits.log_softmax(2)[0, range(len(target)), target].mean()))
    scores = Backward(artifact=backward.path).score(pairs, setting.task, setting.host)
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    worst = {pairs[place] for place in np.argsort(scores, kind="stable")[: counts.backward]}
    assert written(few.train) == set(pairs) - worst
    stage = Distill(label=Label(decoding=Greedy(), backward=Backward(artifact=backward.path)), **UPDATES)
    kept = stage.inputs(None, *setting)["fields"]["label"]["backward"]
    assert kept == {"artifact": backward.digest, "drop_fraction": 0.05}
    assert "backward" not in Label().identity()


def test_a_backward_model_that_cannot_be_one_is_refused_before_anything_is_trained(setting, backward, make_context):
    module = load_model(setting.teacher.path)
    Distill(label=Label(backward=Backward(artifact=backward.path))).check(module, setting.work)
    forwards = Distill(label=Label(backward=Backward(artifact=setting.teacher.path)))
    with pytest.raises(StageError, match="has not read such texts"):
        forwards.check(module, setting.work)
    context = make_context()
    decides = Create(model=Mlp(widths=(4,))).run(None, *context)
    with pytest.raises(StageError, match="does not write"):
        Distill(label=Label(backward=Backward(artifact=decides.path))).check(module, setting.work)
    with pytest.raises(ArtifactError):
        Distill(label=Label(backward=Backward(artifact=context.store.root / "none"))).check(module, setting.work)


@pytest.fixture(scope="module")
def shifted(setting):
    """A model that writes each letter's successor, and its data: both sides have the same symbols."""
    letters = [*writing_zoo.LETTERS]
    successor = str.maketrans(dict(zip(letters, letters[1:] + letters[:1], strict=True)))
    words = {
        role: (samples.inputs, [text.translate(successor) for text in samples.inputs])
        for role, samples in setting.data.roles.items()
    }
    ways = [
        {
            role: Samples(objects(sides[way]), objects((text,) for text in sides[1 - way]))
            for role, sides in words.items()
        }
        for way in (0, 1)
    ]
    forth, back = (replace(setting.data, roles=roles) for roles in ways)
    task = writing_zoo.task(forth, target_text="characters")
    own = replace(setting, task=task, data=forth)
    created = Create(model=writing_zoo.TINY).run(None, *own)
    return Train(epochs=8, **UPDATES).run(created, *own), created, own, replace(own, data=back)


def test_a_model_of_the_wrong_direction_is_refused_though_it_knows_the_symbols(shifted):
    model, created, forth, back = shifted
    for artifact, setting in ((model, forth), (created, back)):
        stage = Distill(label=Label(backward=Backward(artifact=artifact.path)))
        stage.check(load_model(model.path), setting.work)  # by their symbols they are as they should be
        with pytest.raises(StageError, match="does not write train's sources from its targets"):
            stage.foresee(load_model(model.path), writing_zoo.TINY, setting.work, setting.host)
        with pytest.raises(StageError, match="does not write train's sources from its targets"):
            label_with(replace(setting, teacher=model), decoding="greedy", backward={"artifact": artifact.path})
    Backward(artifact=model.path).prove(back.task, back.data, back.host)


def test_labels_that_make_no_sense_are_refused(setting, make_context):
    with pytest.raises(ValueError, match="nothing to choose"):
        Label(decoding=Greedy(), choose="nearest")
    with pytest.raises(ValueError, match="later generations"):
        Distill(label=Label(), generations=2)
    with pytest.raises(ValueError, match="one of sequence, sequence-interpolation, rejection"):
        Distill.model_validate({"label": "sequential"})
    assert Distill.model_validate({"label": "sequence-interpolation"}).label.decoding == Beam(size=8, best=8)
    with pytest.raises(StageError, match="nothing to write"):
        Distill(label=Label()).check(torch.nn.Identity(), make_context().work)
    smoke = Distill(label=Label(decoding=Beam(size=8, best=8))).smoke()
    assert smoke.label.decoding.size == 2


GKD = GuidedLoss(preset="gkd")


def own_texts(setting: Setting, module, how: OnPolicy, *, batch_size: int, accumulate: int = 1, epoch: int = 0):
    """The batches of an epoch's first update, with what the student writes."""
    optimization = Optimization(batch_size=batch_size, accumulate=accumulate)
    given = RoleLoader(setting.task, setting.data.train, optimization, seed=5, views=lambda _epoch, _generator: None)
    return next(on_policy(given, module, setting.work, setting.host, how, seed=5).epoch(epoch))


def by_sample(batches) -> dict[int, list[int]]:
    """What is to be written of each sample, with its end."""
    return {
        sample: row[units].tolist()
        for batch in batches
        for sample, row, units in zip(batch.index.tolist(), spread_labels(batch), batch.units, strict=True)
    }


def spread_labels(batch):
    labels = torch.zeros(batch.units.shape, dtype=torch.int64)
    labels[batch.units] = batch.labels
    return labels


def test_a_student_is_corrected_on_what_it_writes_and_the_loss_is_that_of_the_paper(setting):
    """Against equation 1 in float64 NumPy: summed over symbols, divided by those of the whole update."""
    student, teacher = (
        load_model(found.path) for found in (Create(model=writing_zoo.SMALLER).run(None, *setting), setting.teacher)
    )
    batches = own_texts(setting, student.train(), OnPolicy(fraction=1), batch_size=8, accumulate=2)
    units, samples = sum(batch.num_units for batch in batches), sum(len(batch.index) for batch in batches)
    for beta in (0.5, 1.0, 0.1):
        loss = GuidedLoss(preset="gkd", kl={"beta": beta})
        total, expected = 0.0, 0.0
        for batch in batches:
            with torch.no_grad():
                ours, theirs = (setting.task.forward(module.eval(), batch) for module in (student, teacher))
            terms = loss.on_logits(ours, Targets(teachers=(theirs,), labels=batch.labels))
            total += float(terms.objective(units=units, samples=samples))
            q, p = (softmax(found.double().numpy(), axis=1) for found in (ours, theirs))
            m = beta * p + (1 - beta) * q
            apart = beta * (p * np.log(p / m)) + (1 - beta) * (q * np.log(q / m))
            expected += (q * np.log(q / p) if beta == 1 else apart).sum()
        assert total == pytest.approx(expected / units, rel=1e-5)


def test_what_a_student_draws_depends_on_seed_epoch_and_sample_alone(setting):
    student = load_model(Create(model=writing_zoo.SMALLER).run(None, *setting).path).train()
    how = OnPolicy(fraction=1)
    whole = by_sample(own_texts(setting, student, how, batch_size=32))
    parts = by_sample(own_texts(setting, student, how, batch_size=4, accumulate=8))
    assert parts == whole
    assert len({tuple(text) for text in whole.values()}) > 16
    later = own_texts(setting, student, how, batch_size=setting.data.train.array.size, epoch=1)
    assert all(by_sample(later)[sample] != text for sample, text in whole.items() if len(text) > 8)
    assert student.training, "it goes on in the mode that it was in"
    never = own_texts(setting, student, OnPolicy(fraction=1e-9), batch_size=4)[0]
    assert torch.equal(never.labels, setting.task.batch(setting.data.train, never.index).labels)
    cut = [text for text in whole.values() if END not in text]
    assert all(len(text) == setting.task.max_length for text in cut)
    assert cut, "so little trained a student often does not come to an end"


def test_on_policy_distillation_learns_and_an_interrupted_one_ends_with_the_same_bits(setting, tmp_path):
    student = Create(model=writing_zoo.SMALLER).run(None, *setting)
    stage, seen = Distill(epochs=4, loss=GKD, **UPDATES), Recorded()
    taught = stage.run(student, *replace(setting, recorder=seen))
    assert forced(taught, setting) > forced(student, setting) + 0.2
    drawn = taught.facts["on_policy"]
    assert 0 < drawn["runaway"] < drawn["texts"] < 4 * len(setting.data.train)
    curve = [values["train/runaway_fraction"] for _, values in seen.points if "train/runaway_fraction" in values]
    assert len(curve) == 4
    assert curve[-1] < curve[0]
    short = stage.model_copy(update={"epochs": 1})
    asked = iter([False] * 7)
    with pytest.raises(KeyboardInterrupt):
        short.run(student, *replace(setting, interrupted=lambda: next(asked, True)))
    resumed = short.run(student, *setting)
    model = writing_zoo.SMALLER
    undisturbed = replace(setting, store=Store.open(tmp_path / "other"))
    assert short.run(Create(model=model).run(None, *undisturbed), *undisturbed).digest == resumed.digest


def test_on_policy_is_refused_where_it_cannot_be(setting, make_context):
    with pytest.raises(ValueError, match="what the student writes is no label"):
        GuidedLoss(preset="gkd", hard={})
    (fault,) = Distill(loss=GKD, outputs="packed").misfits(setting.loss)
    assert "outputs: packed" in fault
    assert not Distill(loss=GKD).misfits(setting.loss)
    context = make_context(loss=GKD)
    with pytest.raises(StageError, match="there is nothing to write"):
        Distill(epochs=1).run(Create(model=Mlp(widths=(4,))).run(None, *context), *context)
    with pytest.raises(DataError, match="learnt as they are"):
        distill(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2), [torch.zeros(2, 2)], loss="gkd")
