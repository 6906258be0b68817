"""Passes of what fits, and passes that are compiled; on a device they are tried in on_device.py."""

import pytest
import torch

from compress.cli.options import read_batch_size
from compress.errors import EnvironmentFault, UsageError
from compress.loss import GuidedLoss
from compress.models import Mlp, load_model
from compress.pipeline.run_directory import Asked, decide_execution
from compress.progress import Reporter
from compress.stage import Execution
from compress.stages.create import Create
from compress.stages.distill import Distill
from compress.stages.train import Train
from compress.tasks import Batch
from compress.tasks.batch import split


def test_parts_of_a_batch_have_the_labels_of_their_own_units():
    units = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 1], [0, 1, 1], [1, 0, 0]]).bool()
    labels = torch.arange(int(units.sum()))
    batch = Batch((torch.arange(15).view(5, 3),), labels, torch.arange(5), None, mask=units, units=units)
    parts = split(batch, 2)
    assert [len(part.index) for part in parts] == [2, 2, 1]
    assert [part.labels.tolist() for part in parts] == [[0, 1, 2], [3, 4, 5, 6, 7], [8]]
    assert sum(part.num_units for part in parts) == batch.num_units
    assert parts[2].inputs[0].tolist() == [[12, 13, 14]]
    assert split(batch, 5) == [batch]
    (first, _) = split(Batch((torch.zeros(3, 2),), None, torch.arange(3), None), 2)
    assert first.labels is first.units is None


def test_on_the_cpu_a_pass_has_the_asked_batch_and_says_so(make_context, capsys):
    context = make_context(execution=Execution(1, "float32", batch_size="auto"), reporter=Reporter())
    Train(epochs=1, batch_size=500).run(Create(model=Mlp(widths=(4,))).run(None, *context), *context)
    assert "on the CPU a pass has the asked batch" in capsys.readouterr().err


def test_words_that_say_no_size_are_refused():
    assert read_batch_size("auto") == "auto"
    with pytest.raises(UsageError, match="as large as the recipe asks"):
        read_batch_size("64")


def test_to_compile_without_a_compiler_is_refused(tmp_path):
    from torch._inductor import config

    refused = pytest.raises(EnvironmentFault, match=r"(?s)cannot compile.*C\+\+ compiler")
    with config.patch({"cpp.cxx": ("/nowhere/c++",)}), refused:
        decide_execution(tmp_path, Asked(device="cpu", compile=True), say=print)
    assert not decide_execution(tmp_path, Asked(device="cpu"), say=print).compile


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["hinton", "fitnets"])
def test_what_is_compiled_learns_the_same_up_to_rounding(make_context, trained_digits, tmp_path, loss):
    from compress.models import Cnn
    from compress.store.store import Store

    made = []
    for compile in (False, True):
        execution = Execution(1, "float32", compile=compile)
        context = make_context(teacher=trained_digits, execution=execution, store=Store.open(tmp_path / str(compile)))
        source = Create(model=Cnn(widths=(8, 16), strides=(1, 2))).run(None, *context)
        stage = Distill(loss=GuidedLoss(preset=loss), epochs=1, batch_size=100, learning_rate=0.01)
        made.append(stage.run(source, *context))
    assert made[0].key == made[1].key
    ours, theirs = (load_model(artifact.path).state_dict() for artifact in made)
    for name, value in ours.items():
        torch.testing.assert_close(theirs[name], value, rtol=1e-3, atol=1e-4)
    assert made[1].rounding["compile"] is True
