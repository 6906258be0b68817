"""The methods on plain modules and batches of one's own: README's snippets run, and faults are told at once."""

import copy
import re
from collections import UserDict
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from compress.errors import CompressError, DataError, ModelError, StageError
from compress.functional import bind, distill, export, prune, quantize
from compress.quantization.quantize import Bounds

README = Path(__file__).parents[1] / "docs" / "python.md"


def snippets() -> list[str]:
    section = README.read_text().split("## Without the pipeline\n")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


def macs(module: nn.Module, one: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(one)
    return counter.get_total_flops() // 2


def run(path: str, images: torch.Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]


def test_the_readmes_snippets_run_one_after_another(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    space: dict = {}
    codes = snippets()
    assert len(codes) == 6
    assert all(len(code.splitlines()) <= 11 for code in codes[1:])
    for code in codes[:2]:
        exec(code, space)
    before = copy.deepcopy(space["student"])
    exec(codes[2], space)
    held_out, truth = space["images"][1400:], space["labels"][1400:]
    assert space["accuracy"] > 0.85
    assert F.cross_entropy(space["student"](held_out), truth) < F.cross_entropy(before.eval()(held_out), truth)

    exec(codes[3], space)
    kept, one = space["pruned"].plan["reached"], held_out[:1]
    assert 0.3 < kept <= 0.5
    assert macs(space["small"], one) == pytest.approx(kept * macs(space["student"], one))

    exec(codes[4], space)
    assert space["quantized"].report.kernels["QLinearConv"] == 2
    assert space["quantized"].plan.weights
    int8, wanted = run("int8.onnx", held_out), space["small"](held_out).detach().numpy()
    assert (int8.argmax(1) == wanted.argmax(1)).mean() > 0.95

    exec(codes[5], space)
    assert np.abs(run("fp32.onnx", held_out) - wanted).max() < 1e-4
    assert space["exported"].max_difference < 1e-4


@pytest.fixture
def batches():
    """Three separable classes."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat(32)
    inputs = torch.randn(96, 8, generator=generator) + 3 * F.one_hot(labels, 8)
    return [(inputs[index], labels[index]) for index in torch.randperm(96, generator=generator).split(16)]


def mlp(*, seed: int, width: int = 32, outputs: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Dropout(0.1), nn.Linear(width, outputs))


class Named(nn.Module):
    """Takes inputs by name, and returns a mapping."""

    def __init__(self, *, seed: int) -> None:
        super().__init__()
        self.inner = mlp(seed=seed)

    def forward(self, attention_mask=None, values=None):
        assert attention_mask is not None
        return {"logits": self.inner(values * attention_mask)}


QUICK = {"epochs": 2, "learning_rate": 0.1, "quiet": True}


def test_the_same_call_gives_the_same_bits_and_the_teacher_keeps_its_mode_and_weights(batches):
    data = TensorDataset(*(torch.cat(parts) for parts in zip(*batches, strict=True)))
    teacher = mlp(seed=1).train()
    kept = copy.deepcopy(teacher.state_dict())
    students = [mlp(seed=2), mlp(seed=2), mlp(seed=2)]
    for student, seed in zip(students, (5, 5, 6), strict=True):
        torch.rand(3)  # a disturbed global generator
        distill(student, teacher, DataLoader(data, 16, shuffle=True), seed=seed, **QUICK)
    first, same, other = (nn.utils.parameters_to_vector(student.parameters()) for student in students)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert teacher.training
    assert all(torch.equal(value, kept[name]) for name, value in teacher.state_dict().items())
    assert not students[0].training


@pytest.mark.parametrize("form", ["pairs", "mapping", "numpy", "stream"])
def test_batches_come_in_many_forms_and_train_alike(batches, form):
    student, teacher = (Named(seed=2), Named(seed=1)) if form == "mapping" else (mlp(seed=2), mlp(seed=1))
    loader = {
        "pairs": batches,
        "mapping": [UserDict(values=x, attention_mask=torch.ones(len(x), 1), labels=y) for x, y in batches],
        "numpy": [(x.numpy(), y.numpy()) for x, y in batches],
        "stream": (pair for pair in batches),
    }[form]
    asked = {"steps_per_epoch": len(batches), "epochs": 1} if form == "stream" else {"epochs": 1}
    done = distill(student, teacher, loader, **(QUICK | asked))
    reference = mlp(seed=2)
    distill(reference, mlp(seed=1), batches, **(QUICK | {"epochs": 1}))
    assert done.steps == len(batches)
    for ours, theirs in zip(student.parameters(), reference.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_generator_serves_one_epoch_and_not_two(batches):
    with pytest.raises(DataError, match=r"(?s)ended too early.*6 updates.*used up"):
        distill(mlp(seed=2), mlp(seed=1), (pair for pair in batches), steps_per_epoch=6, **QUICK)


@pytest.mark.parametrize(("problem", "labels"), [("multi-label", torch.bool), ("regression", torch.float32)])
def test_other_problems_have_other_hard_losses(batches, problem, labels):
    loader = [(x, F.one_hot(y, 3).to(labels)) for x, y in batches]
    student = mlp(seed=2)
    done = distill(student, None, loader, loss={"hard": {}}, problem=problem, epochs=30, learning_rate=0.02, quiet=True)
    outputs = torch.cat([student(x) for x, _ in loader])
    wanted = torch.cat([y for _, y in loader]).float()
    error = outputs - wanted if problem == "regression" else outputs.sigmoid() - wanted
    assert error.abs().mean() < 0.2
    assert done.steps == 180


def test_a_loss_in_a_loop_of_ones_own_is_the_formula(batches):
    """Hinton's loss: 0.1 cross-entropy and 0.9 T^2 KL at T = 4, from torch's own functions."""
    student, teacher = mlp(seed=2).eval(), mlp(seed=1).eval()
    inputs, labels = batches[0]
    ours, theirs = student(inputs), teacher(inputs).detach()
    total = bind("hinton", student, teacher, inputs)(ours, theirs, labels).total
    kl = F.kl_div((ours / 4).log_softmax(1), (theirs / 4).softmax(1), reduction="batchmean")
    torch.testing.assert_close(total, 0.1 * F.cross_entropy(ours, labels) + 0.9 * 16 * kl)


def test_features_are_read_in_the_block_alone_and_projectors_are_trained(batches):
    student, teacher = mlp(seed=2, width=16), mlp(seed=1)
    inputs, labels = batches[0]
    loss = {"kl": {}, "hint": {"weight": 1.0, "pairs": {"0": "0"}}}
    guided = bind(loss, student, teacher, inputs)
    with guided:
        said = teacher(inputs).detach()
        guided(student(inputs), said).total.backward()
        with pytest.raises(StageError, match=r"(?s)were not seen.*did not run"):
            guided(student(inputs), said)
    assert all(parameter.grad is not None for parameter in guided.parameters())
    assert sum(value.numel() for value in guided.parameters()) >= 16 * 32
    assert not any(module._forward_hooks for model in (student, teacher) for module in model.modules())
    with pytest.raises(StageError, match="outside the block"):
        guided(student(inputs), said)
    with pytest.raises(DataError, match="reads labels"):
        bind("hinton", student, teacher, inputs)(student(inputs), said)
    with pytest.raises(ModelError, match=r"(?s)teacher_logits \[16, 3\].*none"):
        bind("hinton", student, teacher, inputs)(student(inputs), labels=labels)


class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield torch.zeros(8), 0


def one(x, y):
    return [(x, y)]


@pytest.mark.parametrize(
    ("loader", "options", "words"),
    [
        (lambda x, y: [], {}, "too few batches"),
        (lambda x, y: [(x, y)], {"accumulate": 2}, "too few batches"),
        (lambda x, y: [(x, y, x)], {}, "a batch is not understood"),
        (lambda x, y: ["text"], {}, "a batch is not understood"),
        (lambda x, y: [(x, y[:3])], {}, "do not belong together"),
        (lambda x, y: [(x[:, :5], y)], {}, r"the student does not run.*mat1"),
        (lambda x, y: [x], {}, "reads labels"),
        (lambda x, y: [(x, y.float())], {}, r"several things.*problem='multi-label'"),
        (lambda x, y: [(x, y + 1)], {}, "0 to 2"),
        (lambda x, y: [(x, y)], {"problem": "regression"}, "mean nothing for regression"),
        (lambda x, y: [(x, y)], {"loss": {"hard": {}}, "problem": "regression"}, "do not fit the outputs"),
        (lambda x, y: DataLoader(Endless(), 16), {}, "steps_per_epoch"),
        (lambda x, y: [(x, y), {"values": x}], {"loss": "function-matching"}, "mixup|other inputs"),
        (one, {"teacher": None}, "needs a teacher"),
        (one, {"loss": {"kl": {"temperatur": 2}}}, "loss is not understood.*temperatur"),
        (one, {"teacher": mlp(seed=1, outputs=4)}, r"\[16, 4\].*\[16, 3\]"),
        (one, {"teacher": mlp(seed=2), "loss": {"kl": {}}}, "copy of its only teacher"),
        (one, {"student": mlp(seed=2).to("meta")}, r"another device.*cpu.*meta"),
        (one, {"student": mlp(seed=2).requires_grad_(False)}, "nothing to train"),
        (one, {"student": nn.Flatten(0)}, "nothing to train"),
        (one, {"student": nn.Sequential(mlp(seed=2), nn.Flatten(0))}, "gives no outputs"),
    ],
)
def test_what_cannot_be_trained_with_is_refused_before_a_step(batches, loader, options, words):
    models = {"student": mlp(seed=2), "teacher": mlp(seed=1)}
    models |= {name: options[name] for name in models if name in options}
    before = copy.deepcopy(models["student"].state_dict())
    rest = {name: value for name, value in options.items() if name not in models}
    with pytest.raises(CompressError, match=f"(?s){words}"):
        distill(models["student"], models["teacher"], loader(*batches[0]), **(QUICK | rest))
    if "meta" not in str(options.get("student", "")) and models["student"].state_dict():
        device = next(iter(before.values())).device
        assert device.type == "meta" or all(
            torch.equal(value, before[name]) for name, value in models["student"].state_dict().items()
        )


def test_an_interrupted_student_is_usable(batches):
    def interrupted():
        yield from batches[:3]
        raise KeyboardInterrupt

    student = mlp(seed=2)
    before = copy.deepcopy(student.state_dict())
    with pytest.raises(KeyboardInterrupt):
        distill(student, mlp(seed=1), interrupted(), steps_per_epoch=6, **QUICK)
    assert not student.training
    assert not torch.equal(student.state_dict()["0.weight"], before["0.weight"])
    assert not any(module._forward_hooks for module in student.modules())


def test_pruning_by_norms_needs_no_data_and_leaves_the_module_alone():
    module = mlp(seed=1).train()
    kept = copy.deepcopy(module.state_dict())
    pruned = prune(module, torch.randn(4, 8), kept_params_fraction=0.6, round_to=1)
    counts = [sum(value.numel() for value in model.parameters()) for model in (pruned.module, module)]
    assert counts[0] <= 0.6 * counts[1]
    assert counts[0] == pruned.choice.after.parameters
    assert pruned.importance.method == "magnitude"
    assert module.training
    assert all(torch.equal(value, kept[name]) for name, value in module.state_dict().items())


def test_pruning_by_the_labels_keeps_what_the_labels_need(batches):
    """Half of the hidden units lead nowhere: they go first, whatever their norms."""
    module = mlp(seed=1, width=32).eval()
    with torch.no_grad():
        module[3].weight[:, ::2] = 0
        module[0].weight[::2] *= 100
    pruned = prune(module, batches[0][0], kept_macs_fraction=0.5, round_to=1, loader=batches, quiet=True)
    assert pruned.choice.kept["0"].tolist() == list(range(1, 32, 2))
    assert torch.allclose(pruned.module(batches[0][0]), module(batches[0][0]), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "one share to keep"),
        ({"kept_macs_fraction": 0.5, "kept_params_fraction": 0.5}, "one share to keep"),
        ({"kept_macs_fraction": 1.5}, "between 0 and 1"),
        ({"kept_macs_fraction": 0.5, "protected": ("x",)}, "matches no module"),
        ({"kept_macs_fraction": 0.5, "loader": []}, "no batches"),
        ({"kept_macs_fraction": 0.5, "loader": [torch.zeros(2, 8)], "loss": "hinton"}, "teacher"),
    ],
)
def test_pruning_says_what_is_wrong(options, words):
    with pytest.raises(CompressError, match=words):
        prune(mlp(seed=1), torch.randn(4, 8), **options)


def test_an_example_that_does_not_run_or_is_too_small_is_refused(tmp_path):
    module = mlp(seed=1)
    for example, words in ((torch.randn(4, 7), "does not run"), (torch.randn(1, 8), "at least two"), ("x", "a tensor")):
        for method in (
            lambda value: prune(module, value, kept_macs_fraction=0.5),
            lambda value: quantize(module, value, torch.randn(64, 8)),
            lambda value: export(module, value, tmp_path / "x.onnx"),
            lambda value: bind("hinton", module, mlp(seed=2), value),
        ):
            with pytest.raises(CompressError, match=words):
                method(example)


def test_names_of_classes_are_as_many_as_there_are_outputs_and_a_scripted_module_is_refused(tmp_path):
    for names in (["a", "b"], ["a", "b", "b"]):
        with pytest.raises(CompressError, match="names of the classes do not fit"):
            export(mlp(seed=1), torch.randn(4, 8), tmp_path / "x.onnx", classes=names)
    with pytest.raises(CompressError, match="the model is compiled"):
        export(torch.jit.script(mlp(seed=1)), torch.randn(4, 8), tmp_path / "x.onnx")


def test_calibration_is_a_tensor_or_batches_and_gives_one_plan(batches):
    module, (inputs, _) = mlp(seed=1), batches[0]
    whole = torch.cat([x for x, _ in batches])
    made = [quantize(module, inputs, given, method="minmax") for given in (whole, (whole,), batches)]
    assert made[0].plan == made[1].plan == made[2].plan
    assert made[0].report.kernels
    session = onnxruntime.InferenceSession(made[0].onnx, providers=["CPUExecutionProvider"])
    assert session.run(None, {session.get_inputs()[0].name: whole.numpy()})[0].shape == (96, 3)
    with pytest.raises(DataError, match="no calibration samples"):
        quantize(module, inputs, [])
    with pytest.raises(DataError, match="other inputs"):
        quantize(module, inputs, whole.double())
    with pytest.raises(StageError, match="matches no layer"):
        quantize(module, inputs, whole, keep_float=("nothing",))


class Pooled(nn.Module):
    """Any number of positions in, one output each and one for all."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 3)

    def forward(self, values, mask):
        each = self.inner(values) * mask.unsqueeze(-1)
        return each, each.sum(1)


def test_axes_that_vary_are_those_of_the_inputs_and_of_the_outputs_that_follow_them(tmp_path):
    module, example = Pooled(), (torch.randn(3, 5, 4), torch.ones(3, 5))
    made = export(module, example, tmp_path / "pooled.onnx", axes={1: "length"})
    assert [value.name for value in made.signature.inputs] == ["values", "mask"]
    assert [value.shape for value in made.signature.outputs] == [("batch", "length", 3), ("batch", 3)]
    session = onnxruntime.InferenceSession(made.path, providers=["CPUExecutionProvider"])
    longer = {"values": np.ones((2, 9, 4), np.float32), "mask": np.ones((2, 9), np.float32)}
    each, pooled = session.run(None, longer)
    wanted = module(*(torch.from_numpy(value) for value in longer.values()))
    assert np.allclose(each, wanted[0].detach(), atol=1e-5)
    assert np.allclose(pooled, wanted[1].detach(), atol=1e-5)
    with pytest.raises(CompressError, match="cannot be written"):
        export(module, example, tmp_path / "nowhere" / "x.onnx")
    with pytest.raises(StageError, match="at least 2 along axis 1"):
        export(module, (example[0][:, :1], example[1][:, :1]), tmp_path / "x.onnx", axes={1: "length"})


class Several(nn.Module):
    """Returns its outputs in a form that is told."""

    def __init__(self, form):
        super().__init__()
        self.body, self.form = mlp(seed=2), form

    def forward(self, x):
        return self.form(self.body(x), x)


@pytest.mark.parametrize(
    ("form", "clear"),
    [
        (lambda logits, x: {"features": x, "logits": logits}, True),
        (lambda logits, x: (logits, x[:, None]), True),  # the only one of its form
        (lambda logits, x: (x, logits), False),
        (lambda logits, x: {"one": logits, "two": logits}, False),
    ],
)
def test_of_several_outputs_those_called_logits_or_the_only_ones_are_learnt(batches, tmp_path, form, clear):
    student = Several(form)
    if not clear:
        with pytest.raises(CompressError, match="(?s)logits is not clear.*alone of that form or called logits"):
            distill(student, mlp(seed=1), batches, **QUICK)
        return
    before = copy.deepcopy(student.state_dict())
    distill(student, mlp(seed=1), batches, **QUICK)
    assert any(not torch.equal(value, before[name]) for name, value in student.state_dict().items())
    written = export(student, batches[0][0], tmp_path / "several.onnx")
    names = [output.name for output in written.signature.outputs]
    assert names in (["features", "logits"], ["output0", "output1"])


def test_decisions_are_compared_on_the_output_that_decides(batches):
    example = batches[0][0]
    for form in (
        lambda logits, x: {"features": x[:, None], "scores": logits},
        lambda logits, x: {"a": x, "logits": logits},
    ):
        quantize(Several(form), example, example, mode="dynamic", bounds=Bounds(min_agreement=0.5))
    with pytest.raises(ModelError, match=r"(?s)are its logits is not clear.*one \[.*two \["):
        quantize(Several(lambda logits, x: {"one": logits, "two": logits}), example, example, mode="dynamic")
