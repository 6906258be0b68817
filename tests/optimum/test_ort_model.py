"""The shipped folder in optimum and transformers: pruned int8 files through ORTModel and pipelines.

optimum-onnx holds transformers below 4.58, so these tests run in an environment of their own: `make test-optimum`.
There COMPRESS_NEEDS_OPTIMUM is set, and what is missing is an error; elsewhere they are skipped.
"""

import os
from dataclasses import replace

import numpy as np
import pytest
import text_zoo
import torch
from optimum.utils import DummyTextInputGenerator, DummyVisionInputGenerator, NormalizedConfigManager
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer, pipeline

from compress.data import Data, Samples
from compress.data.images import Manner, read_folder
from compress.data.preprocess import squash
from compress.export.package import package
from compress.export.session import Session
from compress.loss import GuidedLoss
from compress.models import HuggingFace
from compress.stages.create import Create
from compress.stages.export import Export
from compress.stages.prune import Prune
from compress.stages.quantize import Quantize
from compress.stages.train import Train
from compress.stages.vocabulary import PruneVocabulary
from compress.tasks import ImageClassification

if os.environ.get("COMPRESS_NEEDS_OPTIMUM"):
    import optimum.onnxruntime as ort
else:
    ort = pytest.importorskip("optimum.onnxruntime", reason="needs optimum-onnx; run `make test-optimum`")

FILE = "int8-x86.onnx"
VIT = {
    "model_type": "vit",
    "image_size": 8,
    "patch_size": 2,
    "num_channels": 1,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}


def shipped(context, model, *, optimization):
    """A bundle of a trained, pruned, quantized model."""
    created = Create(model=model).run(None, *context)
    teacher = Train(**optimization).run(created, *context)
    context = replace(context, teacher=teacher)
    small = Prune(kept_params_fraction=0.8, importance_batches=2, round_to=8).run(teacher, *context)
    small = PruneVocabulary().run(small, *context.reading(small)) if not context.task.fixed_size else small
    here = context.reading(small)
    return Export().run(Quantize(mode="dynamic", min_agreement=0.5).run(small, *here), *here)


@pytest.fixture
def text_context(make_context, tmp_path):
    def make(kind):
        torch.manual_seed(0)
        folder = text_zoo.make_bert(tmp_path / "bert", hidden_size=64, intermediate_size=128)
        data = text_zoo.review_data(kind=kind, count=240)
        task = text_zoo.text_task(folder, data)
        return replace(make_context(), task=task, data=data, loss=GuidedLoss(preset="hinton")), str(folder)

    return make


def check_dummy_inputs(bundle, loaded):
    """Inputs that optimum makes from the folder's `config.json` alone: what it says of the file is true."""
    config = AutoConfig.from_pretrained(bundle.path)
    normalized = NormalizedConfigManager.get_normalized_config_class(config.model_type)(config)
    session = Session(bundle.path / FILE)
    if "pixel_values" in loaded.input_names:
        names, make = ["pixel_values"], DummyVisionInputGenerator("image-classification", normalized, batch_size=3)
    else:
        assert normalized.vocab_size == len(AutoTokenizer.from_pretrained(bundle.path))
        names = ["input_ids", "attention_mask"]
        make = DummyTextInputGenerator("text-classification", normalized, batch_size=50, sequence_length=20)
    inputs = {name: make.generate(name) for name in names}
    if "attention_mask" in inputs:
        assert inputs["input_ids"].max() > 0.9 * normalized.vocab_size  # the highest ids are among them
    (expected, *_) = session(*(value.numpy() for value in inputs.values()))
    assert np.isfinite(expected).all()
    assert np.allclose(loaded(**inputs).logits.numpy(), expected, atol=1e-5)


def load_package(bundle, target):
    """What optimum loads from the package for it, as the command says; its outputs are the bundle's."""
    told = package(bundle.path, target, layout="optimum", name="student")
    kind, _, arguments = told.partition(".from_pretrained")
    assert arguments == f'("{target}")'
    loaded = getattr(ort, kind).from_pretrained(target)
    check_dummy_inputs(bundle, loaded)
    return loaded


ADAM = {"epochs": 8, "batch_size": 10, "optimizer": "adamw", "learning_rate": 3e-3}


def test_a_text_classifier_runs_in_a_pipeline(text_context, tmp_path):
    context, folder = text_context("label")
    bundle = shipped(context, HuggingFace(path=folder), optimization=ADAM)
    model = ort.ORTModelForSequenceClassification.from_pretrained(bundle.path, file_name=FILE)
    check_dummy_inputs(bundle, model)
    tokenizer = AutoTokenizer.from_pretrained(bundle.path)
    texts = context.data.test.inputs[:20].tolist()
    told = pipeline("text-classification", model=model, tokenizer=tokenizer)(texts, truncation=True)
    packaged = load_package(bundle, tmp_path / "package")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "package")
    assert pipeline("text-classification", model=packaged, tokenizer=tokenizer)(texts, truncation=True) == told
    here = context.reading(bundle)
    session = Session(bundle.path / FILE)
    for position, answer in enumerate(told):
        batch = here.task.batch(context.data.test, torch.tensor([position]))
        (row,) = session(*(value.numpy() for value in batch.inputs))[0]
        chances = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        assert answer["label"] == context.data.classes[int(row.argmax())]
        assert answer["score"] == pytest.approx(chances.max(), abs=1e-4)


def test_a_tagger_runs_in_a_pipeline(text_context, tmp_path):
    context, folder = text_context("words")
    bundle = shipped(context, HuggingFace(path=folder), optimization=ADAM)
    model = ort.ORTModelForTokenClassification.from_pretrained(bundle.path, file_name=FILE)
    tag = pipeline(
        "token-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(bundle.path), ignore_labels=[]
    )
    here, session = context.reading(bundle), Session(bundle.path / FILE)
    seen = set()
    for position in range(20):
        words = context.data.test.inputs[position]
        batch = here.task.batch(context.data.test, torch.tensor([position]))
        (rows,) = session(*(value.numpy() for value in batch.inputs))[0]
        decided = [context.data.classes[index] for index in rows[batch.units[0].numpy()].argmax(1)]
        starts = np.cumsum([0, *(len(word) + 1 for word in words[:-1])])
        told = {answer["start"]: answer["entity"] for answer in tag(" ".join(words))}
        assert [told[start] for start in starts] == decided
        seen |= set(decided)
    assert load_package(bundle, tmp_path / "package").config.id2label == model.config.id2label
    assert len(seen) >= len(context.data.classes) - 1  # names that change places would be two, one of them seen


def test_an_image_classifier_gives_the_files_outputs(make_context, tmp_path):
    context = make_context()
    model = HuggingFace(path="vit", pretrained=False, config=VIT)
    bundle = shipped(context, model, optimization=ADAM | {"epochs": 1, "batch_size": 100})
    loaded = ort.ORTModelForImageClassification.from_pretrained(bundle.path, file_name=FILE)
    batch = context.task.batch(context.data.test, torch.arange(3))
    expected = Session(bundle.path / FILE)(batch.inputs[0].numpy())[0]
    assert np.allclose(loaded(pixel_values=batch.inputs[0]).logits.numpy(), expected, atol=1e-5)
    assert loaded.config.id2label[3] == context.data.classes[3]
    check_dummy_inputs(bundle, loaded)
    packaged = load_package(bundle, tmp_path / "package")
    assert np.array_equal(packaged(pixel_values=batch.inputs[0]).logits, loaded(pixel_values=batch.inputs[0]).logits)


def test_an_image_classifier_of_three_channels_runs_in_a_pipeline(make_context, digits, tmp_path):
    def coloured(samples):
        grey = samples.inputs
        return Samples(np.concatenate([grey, 255 - grey, grey // 2], axis=1), samples.labels)

    data = Data({role: coloured(samples) for role, samples in digits.roles.items()}, digits.classes)
    model = HuggingFace(path="vit", pretrained=False, config=VIT | {"num_channels": 3})
    bundle = shipped(make_context(data=data), model, optimization=ADAM | {"epochs": 3, "batch_size": 50})
    classify = pipeline(
        "image-classification",
        model=ort.ORTModelForImageClassification.from_pretrained(bundle.path, file_name=FILE),
        image_processor=AutoImageProcessor.from_pretrained(bundle.path),
    )
    # As files: some of the right size, some of another one, which our own reader resizes.
    folder = tmp_path / "images" / "train" / "any"
    folder.mkdir(parents=True)
    for number in range(20):
        image = Image.fromarray(data.test.inputs[number].transpose(1, 2, 0))
        (image if number % 2 else image.resize((21, 17))).save(folder / f"{number:02}.png")
    roles = read_folder(tmp_path / "images", Manner(squash((8, 8), channels="rgb"))).roles
    inputs = ImageClassification.of(data, augment=None).batch(roles["train"], torch.arange(20)).inputs[0].numpy()
    told = classify([str(path) for path in sorted(folder.iterdir())])
    session, seen = Session(bundle.path / FILE), set()
    for answers, image in zip(told, inputs, strict=True):
        (row,) = session(image[None])[0]
        chances = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        seen.add(int(row.argmax()))
        assert answers[0]["label"] == data.classes[int(row.argmax())]
        assert answers[0]["score"] == pytest.approx(chances.max(), abs=1e-3)
    assert len(seen) > 3
