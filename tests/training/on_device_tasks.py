"""Every task and every preset on the pretend device: the CPU's weights, nothing left behind, no step that waits.

`test_device.py` runs this file in a process of its own, as on_device.py.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mirror_device
import numpy as np
import pytest
import text_zoo
import torch
from task_zoo import SUBJECTS, make_subject

from compress.data import Data
from compress.errors import CompressError
from compress.models import load_model
from compress.progress import Reporter
from compress.stage import Execution, Member
from compress.stages.create import Create
from compress.stages.distill import Distill
from compress.stages.prune import Prune
from compress.store.artifact import Artifact
from compress.store.store import Store
from compress.training import loop
from compress.training.decoding import Beam, Greedy, Sample, Voices
from compress.training.inference import predict
from compress.training.label import Label

mirror_device.install()
SIZE, STEPS = 8, (2, 4)  # both see all terms of a loss whose halves differ
CUT = Prune(kept_params_fraction=0.9, round_to=2, tolerance=0.5, importance_batches=2, importance_batch_size=8)


def weights(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([value.flatten().double() for value in module.state_dict().values()])


def prune(artifact: Artifact, setting) -> tuple[str, torch.Tensor]:
    """Why it is refused, or what is left."""
    try:
        return "", weights(load_model(CUT.run(artifact, *setting).path, code=setting.code))
    except CompressError as refused:
        return str(refused), torch.zeros(0)


@pytest.mark.parametrize(("kind", "preset"), SUBJECTS)
def test_it_learns_as_on_the_cpu_and_no_step_waits_for_the_device(
    kind: str, preset: str, make_context: Callable, digits: Data, tmp_path, monkeypatch
):
    torch.manual_seed(0)
    monkeypatch.setattr(loop, "LOGGED_POINTS", 1)
    subject = make_subject(kind, preset, tmp_path, digits)
    made, waited = [], []
    for device, steps in (("mirror:0", STEPS[0]), ("mirror:0", STEPS[1]), ("cpu", STEPS[1])):
        samples = subject.data.train.take(np.arange(SIZE * steps))
        setting = replace(
            make_context(),
            task=subject.task,
            data=replace(subject.data, roles={**subject.data.roles, "train": samples}),
            loss=subject.loss,
            execution=Execution(1, "float32", device),
            store=Store.open(tmp_path / f"{device[:3]}{steps}"),
            reporter=Reporter(quiet=True),
            code=subject.code,
        )
        teacher, student = (Create(model=one).run(None, *setting) for one in (subject.teacher, subject.student))
        setting, before = replace(setting, teacher=teacher), len(mirror_device.reads)
        stage = Distill(epochs=1, batch_size=SIZE, learning_rate=0.01)
        artifact = stage.run(student, *setting)
        waited.append(len(mirror_device.reads) - before)
        made.append((setting, artifact, load_model(artifact.path, code=subject.code)))
    (_, _, short), (on_device, artifact, ours), (on_cpu, _, theirs) = made
    assert not torch.allclose(weights(ours), weights(short), atol=1e-4)
    assert torch.allclose(weights(ours), weights(theirs), atol=1e-4)
    assert waited[0] > waited[2] == 0
    if subject.loss.on_policy is None:  # what the student writes is read
        assert waited[0] == waited[1]  # the ends of a training read, its steps do not
    said = [predict(ours, subject.task, one.host, subject.data.select) for one in (on_device, on_cpu)]
    assert torch.allclose(*said, atol=1e-4)
    (why, cut), (refused, again) = (prune(artifact, one) for one in (on_cpu, on_device))
    assert why == refused
    assert torch.equal(cut, again)


@pytest.mark.parametrize("how", [Greedy(), Beam(size=3, best=2), Sample(texts=2)], ids=["greedy", "beam", "sample"])
def test_texts_are_written_as_on_the_cpu(how, digits: Data, tmp_path):
    subject = make_subject("written", "sequence", tmp_path, digits)
    torch.manual_seed(0)
    module, ends = subject.teacher.build(subject.task.signature, code=()).eval(), []
    batch = subject.task.batch(subject.data.select, torch.arange(16))
    for device in ("cpu", "mirror:0"):
        ids, mask = (value.to(device) for value in batch.inputs[:2])
        with torch.no_grad():
            voices = Voices([module.to(device)], [1.0], ids, mask)
            written = how.write(
                voices,
                steps=torch.full((len(voices),), 8, device=voices.device),
                generator=torch.Generator().manual_seed(0),
            )
        ends.append((written.ids.cpu(), written.log_probability.cpu()))
    assert torch.equal(ends[0][0], ends[1][0])
    assert len(ends[0][0].unique()) > 1
    assert torch.allclose(ends[0][1], ends[1][1], atol=1e-4)


@pytest.mark.parametrize("float64", [False, True], ids=["copied", "on the device"])
@pytest.mark.parametrize(
    ("how", "waits"), [(Greedy(), 1), (Beam(size=3, best=2), 1), (Sample(texts=2), 2)], ids=["greedy", "beam", "sample"]
)
def test_a_step_of_writing_waits_once_and_once_more_for_what_is_drawn(
    how, waits: int, float64: bool, digits: Data, tmp_path, monkeypatch
):
    """Whichever texts end when. Without float64 on the device, each model's logits are copied, and nothing else."""
    monkeypatch.setitem(mirror_device.types, "float64", float64)
    subject = make_subject("written", "sequence", tmp_path, digits)
    torch.manual_seed(0)
    models = [subject.teacher.build(subject.task.signature, code=()).eval().to("mirror:0") for _ in range(2)]
    batch = subject.task.batch(subject.data.select, torch.arange(12))
    counted, taken = [], []
    for longest in (6, 9):
        ids, mask = (value.to("mirror:0") for value in batch.inputs[:2])
        with torch.no_grad():
            voices = Voices(models, [0.5, 0.5], ids, mask)
            steps = (torch.arange(12) % longest + 1).to(voices.device)
            before = len(mirror_device.reads)
            found = how.write(voices, steps=steps, generator=torch.Generator().manual_seed(0))
            counted.append(len(mirror_device.reads) - before)
            # A beam goes on to the limit of its sources; of other texts the longest says how many steps there were.
            taken.append(longest if isinstance(how, Beam) else int((found.lengths + found.ended).max()))
    assert voices.device.type == ("mirror" if float64 else "cpu")
    assert taken[1] > taken[0]
    assert counted[1] - counted[0] == (taken[1] - taken[0]) * (waits if float64 else len(models))


def ensemble(setting, models, tasks) -> tuple[Member, ...]:
    """Teachers of different weights."""
    made = [Create(model=model).run(None, *replace(setting, seed=seed)) for seed, model in enumerate(models)]
    return tuple(Member(*one, 1 / place) for place, one in enumerate(zip(made, tasks, strict=True), start=1))


def learn(kind: str, preset: str, stage: Distill, folder: Path, digits: Data, make_context: Callable):
    """What a stage makes of a student with three teachers, on the device with 2 and 4 steps and on the CPU with 4."""
    subject = make_subject(kind, preset, folder, digits)
    tasks = [subject.task] * 3
    if kind == "texts":  # the second one reads by a tokenizer of its own
        tasks[1] = text_zoo.text_task(text_zoo.make_tokenizer(folder / "own", tokens=OWN), subject.data)
    for device, steps in (("mirror:0", STEPS[0]), ("mirror:0", STEPS[1]), ("cpu", STEPS[1])):
        torch.manual_seed(0)
        samples = subject.data.train.take(np.arange(SIZE * steps))
        setting = replace(
            make_context(),
            task=subject.task,
            data=replace(subject.data, roles={**subject.data.roles, "train": samples}),
            loss=subject.loss,
            execution=Execution(1, "float32", device),
            store=Store.open(folder / f"{device[:3]}{steps}"),
            reporter=Reporter(quiet=True),
        )
        members = ensemble(setting, (subject.teacher, subject.teacher, subject.student), tasks)
        student = Create(model=subject.student).run(None, *setting)
        _, host = setting
        before = len(mirror_device.reads)
        made = stage.run(student, replace(setting.work, teachers=members), host)
        assert mirror_device.alive() == 0
        yield made, weights(load_model(made.path)), len(mirror_device.reads) - before


OWN = [*reversed(text_zoo.VOCABULARY)]
ENSEMBLES = {
    "stored": ("images", "hinton", {}),
    "of which one gives features": ("images", "fitnets", {}),
    "live, on fresh views": ("images", "function-matching", {"views": "fresh"}),
    "of other tokens": ("texts", "distilbert", {}),
    "that force what is written": ("written", "word", {}),
    "that read what the student writes": ("written", "gkd", {}),
}


@pytest.mark.parametrize(("kind", "preset", "fields"), ENSEMBLES.values(), ids=ENSEMBLES)
def test_several_teachers_teach_as_on_the_cpu_and_no_step_waits(
    kind, preset, fields, make_context: Callable, digits: Data, tmp_path, monkeypatch
):
    monkeypatch.setattr(loop, "LOGGED_POINTS", 1)
    stage = Distill(epochs=1, batch_size=SIZE, learning_rate=0.01, **fields)
    short, whole, on_cpu = learn(kind, preset, stage, tmp_path, digits, make_context)
    assert torch.allclose(whole[1], on_cpu[1], atol=1e-4)
    assert not torch.allclose(whole[1], short[1], atol=1e-4)
    assert short[2] > on_cpu[2] == 0
    if preset != "gkd":  # what the student writes is read
        assert short[2] == whole[2]


@pytest.mark.parametrize("how", [Greedy(), Beam(size=3, best=2), Sample(texts=2)], ids=["greedy", "beam", "sample"])
def test_what_several_teachers_write_is_learnt_as_on_the_cpu(
    how, make_context: Callable, digits: Data, tmp_path, monkeypatch
):
    monkeypatch.setattr(loop, "LOGGED_POINTS", 1)
    stage = Distill(
        label=Label(decoding=how, choose="all" if how.count > 1 else "first", keep_given=True),
        epochs=1,
        batch_size=SIZE,
        learning_rate=0.01,
    )
    _, (made, on_device, _), (other, on_cpu, _) = learn("written", "sequence", stage, tmp_path, digits, make_context)
    counts, expected = ({**one.facts["label"], "seconds": 0} for one in (made, other))
    assert counts == expected
    assert counts["texts"] == how.count * counts["sources"]
    assert torch.allclose(on_device, on_cpu, atol=1e-4)
