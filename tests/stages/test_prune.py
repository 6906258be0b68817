import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from compress.errors import StageError
from compress.loss import GuidedLoss
from compress.loss.logits import Hard, Kl
from compress.models import HuggingFace, MobileNet, ResNet, load_model
from compress.stage import Optimization
from compress.stages.create import Create
from compress.stages.prune import Prune
from compress.store.store import Store
from compress.surgery.cost import model_cost
from compress.tasks import Augment
from compress.training.teacher import teacher_outputs

QUICK = {"importance_batches": 2, "importance_batch_size": 32}


@pytest.fixture
def context(make_context, trained_digits):
    return make_context(teacher=trained_digits)


def plan_of(artifact) -> list[dict]:
    return json.loads((artifact.path / "plan.json").read_text())["steps"]


def test_the_stored_model_is_plain_and_costs_what_the_facts_say(context, trained_digits):
    made = Prune(kept_macs_fraction=0.5, **QUICK).run(trained_digits, *context)
    module = load_model(made.path)
    cost = model_cost(module, context.task.batch(context.data.select, torch.arange(2)).inputs)
    assert made.facts["after"] == {"parameters": cost.parameters, "macs": cost.macs}
    assert made.facts["kept_macs_fraction"] <= 0.5
    assert made.facts["masked_difference"] <= 1e-9
    assert plan_of(made)[0]["importance"] == made.facts["importance"]


def test_importance_reads_what_distillation_stored_of_the_teacher(make_context, trained_digits, monkeypatch):
    context = make_context(teacher=trained_digits, augment=Augment(crop_padding=1, views=2))
    teacher_outputs(*context, context.data.train, views=context.task.views())

    def computed(*_arguments, **_options):
        raise AssertionError("the teacher was asked again")

    monkeypatch.setattr("compress.training.teacher.forward_all", computed)
    made = Prune(kept_macs_fraction=0.5, **QUICK).run(trained_digits, *context)
    assert made.facts["importance"]["samples"] == 64


def test_parameters_can_be_the_measure(context, trained_digits):
    made = Prune(kept_params_fraction=0.4, importance="magnitude").run(trained_digits, *context)
    assert made.facts["kept_params_fraction"] <= 0.4
    assert made.facts["importance"]["method"] == "magnitude"


@pytest.mark.parametrize("family", [ResNet(), MobileNet()], ids=lambda family: family.family)
def test_built_in_families_reload_after_pruning(context, family):
    source = Create(model=family).run(None, *context)
    made = Prune(kept_macs_fraction=0.5, importance="magnitude").run(source, *context)
    batch = context.task.batch(context.data.select, torch.arange(3))
    assert load_model(made.path)(*batch.inputs).shape == (3, 10)


def test_a_student_that_is_its_own_teacher_is_ranked_by_fisher_information(context, trained_digits):
    own = Prune(kept_macs_fraction=0.5, loss=GuidedLoss(kl=Kl()), **QUICK)
    assert own.run(trained_digits, *context).facts["importance"]["method"] == "fisher"
    labelled = Prune(kept_macs_fraction=0.5, loss=GuidedLoss(hard=Hard()), **QUICK)
    assert labelled.run(trained_digits, *context).facts["importance"]["method"] == "taylor"


def test_pruning_by_the_loss_keeps_more_accuracy_than_pruning_the_opposite(context, trained_digits, monkeypatch):
    """The ranking has the right sign: removing the best channels instead does more harm."""
    import compress.training.importance as module
    from compress.surgery.importance import Importance

    def accuracy(artifact) -> float:
        select = context.data.select
        logits = load_model(artifact.path)(*context.task.batch(select, torch.arange(len(select))).inputs)
        return context.task.tally(logits.detach().numpy(), select).value

    stage = Prune(kept_macs_fraction=0.7, ranking="uniform", round_to=1, **QUICK)
    right = accuracy(stage.run(trained_digits, *context))
    score = module.taylor

    def inverted(*arguments, **options):
        found = score(*arguments, **options)
        flipped = {name: values.max() - values for name, values in found.scores.items()}
        return Importance(flipped, found.method, found.samples, found.gradient_ratio)

    monkeypatch.setattr(module, "taylor", inverted)
    wrong = accuracy(stage.model_copy(update={"importance_batch_size": 33}).run(trained_digits, *context))
    assert right > wrong + 0.1


def test_steps_approach_the_target_in_equal_ratios_and_train_in_between(context, trained_digits):
    stage = Prune(kept_macs_fraction=0.25, steps=2, round_to=1, recover=Optimization(epochs=1), **QUICK)
    made = stage.run(trained_digits, *context)
    first, second = plan_of(made)
    assert 0.45 < first["after"]["macs"] / first["before"]["macs"] <= 0.5
    assert second["before"] == first["after"]
    assert 0.22 < made.facts["kept_macs_fraction"] <= 0.25
    assert any("train/loss_total" in values for _, values in context.recorder.points)


def test_a_killed_run_continues_after_its_last_step(context, trained_digits, monkeypatch, tmp_path):
    """The step that was committed is not made again, and the result is bitwise that of an undisturbed run."""
    import compress.stages.prune as module

    stage = Prune(kept_macs_fraction=0.3, steps=3, round_to=1, recover=Optimization(epochs=1), **QUICK)
    trainings = []
    fit = module.fit_guided

    def killed(*arguments, **options):
        trainings.append(options["name"])
        if len(trainings) == 2:
            raise KeyboardInterrupt
        return fit(*arguments, **options)

    monkeypatch.setattr(module, "fit_guided", killed)
    with pytest.raises(KeyboardInterrupt):
        stage.run(trained_digits, *context)
    resumed = stage.run(trained_digits, *context)
    assert trainings == [f"prune, step {step} of 3" for step in (1, 2, 2)]
    assert len(plan_of(resumed)) == 3
    undisturbed = stage.run(trained_digits, *replace(context, store=Store.open(tmp_path / "undisturbed")))
    assert resumed.digest == undisturbed.digest


def test_steps_finer_than_the_widths_do_no_harm(context, trained_digits):
    """A step whose share was overshot already by the one before has nothing to remove, and is no failure."""
    stage = Prune(kept_macs_fraction=0.5, steps=5, recover=Optimization(epochs=1, batch_size=500), **QUICK)
    made = stage.run(trained_digits, *context)
    assert made.facts["kept_macs_fraction"] <= 0.5


def test_protected_globs_keep_widths_and_must_match(context, trained_digits):
    free = Prune(kept_macs_fraction=0.6, importance="magnitude").run(trained_digits, *context)
    names = list(free.facts["widths"])
    kept = Prune(kept_macs_fraction=0.6, importance="magnitude", protected=(names[0],)).run(trained_digits, *context)
    assert names[0] not in kept.facts["widths"]
    assert set(names[1:]) <= set(kept.facts["widths"])
    with pytest.raises(StageError, match="matches no module"):
        Prune(kept_macs_fraction=0.6, protected=("nothing.*",)).run(trained_digits, *context)
    with pytest.raises(StageError, match="no channels"):
        Prune(kept_macs_fraction=0.6, protected=("*",)).run(trained_digits, *context)


def test_a_select_role_smaller_than_what_is_verified_is_no_obstacle(make_context, trained_digits, digits):
    few = replace(digits, roles={**digits.roles, "select": digits.select.take(np.arange(3))})
    context = make_context(data=few, teacher=trained_digits)
    made = Prune(kept_macs_fraction=0.5, importance="magnitude").run(trained_digits, *context)
    assert made.facts["masked_difference"] <= 1e-9


def test_an_unreachable_target_names_the_reachable_one_and_a_miss_the_nearest(context, trained_digits):
    with pytest.raises(StageError, match=r"a fraction of at least 0\.\d{4}") as caught:
        Prune(kept_macs_fraction=0.001, importance="magnitude").run(trained_digits, *context)
    named = float(str(caught.value).split("at least ")[1].split()[0])
    with pytest.raises(StageError, match="at least"):
        Prune(kept_macs_fraction=named - 1e-3, importance="magnitude").run(trained_digits, *context)
    made = Prune(kept_macs_fraction=named + 1e-4, importance="magnitude").run(trained_digits, *context)
    assert made.facts["kept_macs_fraction"] == pytest.approx(named, abs=1e-4)
    with pytest.raises(StageError, match="nearest below"):
        Prune(kept_macs_fraction=0.5, importance="magnitude", round_to=16, tolerance=1e-6).run(trained_digits, *context)


@pytest.fixture
def vision(context):
    """A tiny ViT, untrained."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
    config = {"model_type": "vit", "image_size": 8, "patch_size": 4, "num_channels": 1, "initializer_range": 0.3}
    return Create(model=HuggingFace(path="vit", pretrained=False, config=config | sizes)).run(None, *context)


@pytest.mark.parametrize("target", ["kept_macs_fraction", "kept_params_fraction"])
def test_a_transformer_loses_heads_neurons_and_layers_by_what_the_loss_says(context, vision, target):
    made = Prune.model_validate({target: 0.5, "round_to": 4, **QUICK}).run(vision, *context)
    groups = plan_of(made)[0]["groups"]
    assert {group["kind"] for group in groups} == {"heads", "feed_forward", "layers"}
    assert 0.45 < made.facts[target] <= 0.5
    assert made.facts["masked_difference"] <= 1e-9
    assert made.facts["sample_shapes"] == [[1, 8, 8]]
    # Not one share for all: what is kept of each differs by layer and kind.
    assert len({group["width_after"] / group["width_before"] for group in groups}) > 2
    module = load_model(made.path)
    cost = model_cost(module, context.task.batch(context.data.select, torch.arange(2)).inputs)
    assert made.facts["after"] == {"parameters": cost.parameters, "macs": cost.macs}


def test_the_units_of_a_transformer_are_those_that_are_named(context, vision):
    made = Prune(kept_macs_fraction=0.8, units=("hidden",), round_to=4, **QUICK).run(vision, *context)
    assert list(made.facts["widths"]) == ["model.vit.embeddings"]
    layers = Prune(kept_macs_fraction=0.7, units=("layers",), **QUICK).run(vision, *context)
    assert len(plan_of(layers)[0]["groups"][0]["kept"]) == 2
    assert json.loads((layers.path / "structure.json").read_text())["model"]["config"]["num_hidden_layers"] == 2


def test_a_transformer_is_pruned_in_steps_down_to_fewer_layers_each_time(context, vision):
    stage = Prune(kept_macs_fraction=0.5, units=("layers",), steps=2, recover=Optimization(epochs=1), **QUICK)
    made = stage.run(vision, *context)
    assert [step["groups"][0]["width_after"] for step in plan_of(made)] == [2, 1]
    assert made.facts["kept_macs_fraction"] <= 0.5


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"kept_macs_fraction": 0.5, "kept_params_fraction": 0.5},
        {"kept_macs_fraction": 1.0},
        {"kept_macs_fraction": 0.5, "steps": 2},
        {"kept_macs_fraction": 0.5, "recover": {"epochs": 1}},
        {"kept_macs_fraction": 0.5, "units": []},
        {"kept_macs_fraction": 0.5, "units": ["tails"]},
        {"kept_macs_fraction": 0.5, "ranking": "per_cost", "importance": "magnitude"},
    ],
)
def test_fields_that_contradict_are_refused_at_once(fields):
    with pytest.raises(ValidationError):
        Prune.model_validate(fields)


def foresee(stage, module, context):
    return stage.foresee(module, ResNet(width=8, blocks=[1]), context.work, context.host)


class WrittenOut(torch.nn.Module):
    """A number of channels in forward, as in tutorials; weight_norm as its users have it."""

    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv2d(1, 16, 3, padding=1))
        self.conv2 = torch.nn.Conv2d(16, 16, 3, padding=1)
        self.fc1, self.fc2 = torch.nn.Linear(16 * 64, 32), torch.nn.Linear(32, 10)

    def forward(self, x):
        x = torch.relu(self.conv2(torch.relu(self.conv1(x))))
        return self.fc2(torch.relu(self.fc1(x.view(-1, 16 * 64))))


def test_what_stays_and_what_can_be_reached_is_known_before_anything_trains(context):
    lines = foresee(Prune(kept_macs_fraction=0.7, round_to=4), WrittenOut(), context)
    assert lines[0].startswith("kept_macs_fraction can be anything from 0.")
    assert lines[1] == "computed weights become plain ones: conv1.weight"
    assert lines[2].startswith("model.conv2 keeps its 16 channels: ")
    assert lines[3] == 'the others are cut; protected: ["conv2"] keeps these without a trial'
    quiet = foresee(Prune(kept_macs_fraction=0.7, round_to=4, protected=("conv2",)), WrittenOut(), context)
    assert quiet == lines[:2]


def test_what_cannot_be_reached_is_refused_before_anything_trains(context):
    with pytest.raises(StageError, match=r"(?s)kept_macs_fraction cannot be reached.*0\.\d+ to 1.*0\.01.*model\.conv2"):
        foresee(Prune(kept_macs_fraction=0.01), WrittenOut(), context)
    with pytest.raises(StageError, match=r"(?s)no channels that could be removed.*protected.*leave prune out"):
        foresee(Prune(kept_macs_fraction=0.5, protected=("*",)), WrittenOut(), context)
    with pytest.raises(StageError, match="matches no module"):
        foresee(Prune(kept_macs_fraction=0.5, protected=("nothing",)), WrittenOut(), context)


def test_what_a_prune_behind_another_cannot_reach_is_refused_before_anything_runs(context):
    model, family = WrittenOut(), ResNet(width=8, blocks=[1])
    first = Prune(kept_macs_fraction=0.7, round_to=4)
    smallest = float(foresee(first, model, context)[0].rpartition("from ")[2].partition(" ")[0])
    second = Prune(kept_macs_fraction=smallest + 0.01, round_to=4, name="again")
    assert "of the model before all cuts" not in foresee(second, model, context)[0]
    with pytest.raises(StageError, match=r"(?s)cannot be reached.*of the 0\.7 that is left before"):
        second.foresee(model, family, context.work, context.host, after=(first,))
    of_parameters = Prune(kept_params_fraction=0.5, name="other")
    told = second.foresee(model, family, context.work, context.host, after=(of_parameters,))
    assert told[0].endswith("of the model before all cuts")


def test_a_tolerance_that_no_width_meets_is_refused_and_told_where_scores_decide(context):
    tight = {"kept_macs_fraction": 0.6, "tolerance": 0.0001, "round_to": 8}
    with pytest.raises(StageError, match=r"(?s)within the tolerance.*nearest below"):
        foresee(Prune(ranking="uniform", **tight), WrittenOut(), context)
    told = foresee(Prune(**tight), WrittenOut(), context)
    assert any("is the nearest below 0.6000: tolerance 0.0001 is missed" in line for line in told)
    assert len(foresee(Prune(**tight | {"tolerance": 0.9}), WrittenOut(), context)) == len(told) - 1
