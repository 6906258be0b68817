"""Transformers from tiny checkpoints: built, ordered, stored without their folder, refused where they do not fit."""

import json
import socket
import sys
from contextlib import suppress
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import text_zoo
import torch
import transformers
from PIL import Image

from compress.data import Data, Samples
from compress.data.images import Manner, read_folder
from compress.data.preprocess import Preprocess, squash
from compress.errors import ModelError
from compress.models import HuggingFace, load_model, save_model
from compress.stages.create import Create
from compress.tasks import ImageClassification, Normalize, Signature, Tokenizer
from compress.tasks.signature import Tensor

SIZES = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
}
CONFIGS = {
    "bert": transformers.BertConfig(**SIZES),
    "roberta": transformers.RobertaConfig(**SIZES),
    "distilbert": transformers.DistilBertConfig(
        vocab_size=60, dim=16, n_layers=2, n_heads=2, hidden_dim=24, max_position_embeddings=40
    ),
    "electra": transformers.ElectraConfig(**SIZES, embedding_size=8),
    "deberta-v2": transformers.DebertaV2Config(
        **SIZES, relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=8, position_biased_input=False
    ),
    "mpnet": transformers.MPNetConfig(**SIZES),
    "albert": transformers.AlbertConfig(**SIZES, embedding_size=8),
    "modernbert": transformers.ModernBertConfig(**SIZES, local_attention=4, pad_token_id=0),
}
NAMES = ("ham", "spam", "eggs")


def signature(outputs: int = 3, *, words: bool = False, classes: tuple[str, ...] = ()) -> Signature:
    axes = ("batch", "length", outputs) if words else ("batch", outputs)
    inputs = tuple(
        Tensor(name=name, dtype="int64", shape=("batch", "length")) for name in ("input_ids", "attention_mask")
    )
    return Signature(inputs=inputs, outputs=(Tensor(name="logits", dtype="float32", shape=axes),), classes=classes)


def checkpoint(folder, family="bert", *, names=None, kind="Sequence", **changes):
    """A folder with an encoder, or with a classifier of named classes."""
    torch.manual_seed(0)
    config = type(CONFIGS[family]).from_dict(CONFIGS[family].to_dict() | changes)
    if names is not None:
        config.id2label, config.label2id = dict(enumerate(names)), {name: n for n, name in enumerate(names)}
        getattr(transformers, f"AutoModelFor{kind}Classification").from_config(config).save_pretrained(folder)
    else:
        transformers.AutoModel.from_config(config).save_pretrained(folder)
    return folder


def padded() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids without special ones, [2, 9], the second row padded from 5 on; and that row alone."""
    ids = torch.randint(5, 60, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 9, dtype=torch.int64)
    mask[1, 5:] = 0
    return ids, mask, ids[1:, :5]


@pytest.mark.parametrize("words", [False, True], ids=["texts", "words"])
@pytest.mark.parametrize("family", CONFIGS)
def test_it_is_built_read_with_padding_and_stored_without_its_folder(family, words, tmp_path):
    folder = checkpoint(tmp_path / "published", family)
    expected = signature(words=words, classes=NAMES)
    torch.manual_seed(1)
    model = HuggingFace(path=str(folder))
    module = model.build(expected, code=()).eval()
    ids, mask, alone = padded()
    ids[mask == 0] = CONFIGS[family].pad_token_id
    with torch.no_grad():
        outputs = module(ids, mask)
        single = module.double()(alone, torch.ones_like(alone))[0]
        both = module(ids, mask)[1]
    module.float()
    assert outputs.shape == ((2, 9, 3) if words else (2, 3))
    rounded = family == "modernbert"  # in float32, by itself
    assert torch.allclose(both[:5] if words else both, single, atol=1e-6 if rounded else 1e-9)
    save_model(module, tmp_path, model=model, signature=expected)
    text = (tmp_path / "structure.json").read_text()
    assert str(folder) not in text
    folder.rename(tmp_path / "moved")
    again = load_model(tmp_path)
    with torch.no_grad():
        assert torch.equal(again(ids, mask), outputs)


def test_images_are_still_classified(tmp_path):
    config = transformers.ViTConfig(
        image_size=8,
        patch_size=4,
        num_channels=1,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    transformers.AutoModel.from_config(config).save_pretrained(tmp_path / "vit")
    images = Signature(
        inputs=(Tensor(name="image", dtype="float32", shape=("batch", 1, 8, 8)),),
        outputs=(Tensor(name="logits", dtype="float32", shape=("batch", 3)),),
    )
    model = HuggingFace(path=str(tmp_path / "vit"))
    module = model.build(images, code=()).eval()
    save_model(module, tmp_path, model=model, signature=images)
    image = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        assert module(image).shape == (2, 3)
        assert torch.equal(load_model(tmp_path)(image), module(image))


def test_an_unsupported_family_is_refused_by_name(tmp_path):
    config = transformers.GPT2Config(vocab_size=60, n_embd=16, n_layer=1, n_head=2, n_positions=16)
    transformers.AutoModel.from_config(config).save_pretrained(tmp_path)
    model = HuggingFace(path=str(tmp_path))
    with pytest.raises(ModelError, match=r"(?s)family 'gpt2' is not supported.*encoder.*bert, roberta.*a causal model"):
        model.build(signature(), code=())
    source = Tensor(name="source_ids", dtype="int64", shape=("batch", "source"), symbols=30)
    with pytest.raises(ModelError, match=r"(?s)write no texts.*transducer"):
        model.build(signature().model_copy(update={"inputs": (source,)}), code=())
    numbers = Tensor(name="numbers", dtype="float32", shape=("batch", 4))
    with pytest.raises(ModelError, match=r"(?s)images and texts.*model of your own.*numbers \['batch', 4\]"):
        model.build(signature().model_copy(update={"inputs": (numbers,)}), code=())


@pytest.mark.parametrize("kind", ["Sequence", "Token"])
@pytest.mark.parametrize("family", CONFIGS)
def test_a_head_of_the_same_classes_in_another_order_gives_each_class_its_own_logit(family, kind, tmp_path):
    checkpoint(tmp_path, family, names=NAMES, kind=kind)
    theirs = getattr(transformers, f"AutoModelFor{kind}Classification").from_pretrained(tmp_path).eval()
    order = ("eggs", "ham", "spam")
    module = HuggingFace(path=str(tmp_path)).build(signature(words=kind == "Token", classes=order), code=()).eval()
    ids, mask, _ = padded()
    with torch.no_grad():
        ours, expected = module(ids, mask), theirs(input_ids=ids, attention_mask=mask).logits
    columns = [NAMES.index(name) for name in order]
    if kind == "Token":  # what padding gives that sees nothing around it, no two kinds of attention agree on
        ours, expected = (each[mask.bool()] for each in (ours, expected))
    assert torch.allclose(ours, expected[..., columns], atol=1e-6)
    assert not torch.allclose(ours, expected, atol=1e-3)


@pytest.mark.parametrize("names", [("ham", "spam", "bacon"), ("ham", "spam"), ("ham", "spam", "eggs", "toast")])
def test_other_classes_are_refused_or_drawn_anew(names, tmp_path):
    checkpoint(tmp_path, names=names)
    build = HuggingFace(path=str(tmp_path)).build
    if len(names) == 3:
        with pytest.raises(ModelError, match=r"(?s)trained on other classes.*ham, spam, eggs.*bacon"):
            build(signature(classes=NAMES), code=())
    else:  # another number of classes is another head, as in fine-tuning
        assert build(signature(classes=NAMES), code=())(*padded()[:2]).shape == (2, 3)


def test_a_fresh_head_keeps_the_body_and_forgets_the_classes(tmp_path):
    checkpoint(tmp_path, names=("ham", "bacon", "eggs"))
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    module = HuggingFace(path=str(tmp_path), fresh_head=True).build(signature(classes=NAMES), code=())
    ours = module.model
    bodies = (theirs.base_model.state_dict(), ours.base_model.state_dict())
    assert all(torch.equal(value, bodies[1][name]) for name, value in bodies[0].items())
    assert not torch.equal(theirs.classifier.weight, ours.classifier.weight)


def test_classes_that_nobody_named_are_taken_in_order(tmp_path):
    checkpoint(tmp_path, names=("LABEL_0", "LABEL_1", "LABEL_2"))
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    module = HuggingFace(path=str(tmp_path)).build(signature(classes=NAMES), code=()).eval()
    ids, mask, _ = padded()
    with torch.no_grad():
        assert torch.allclose(module(ids, mask), theirs(input_ids=ids, attention_mask=mask).logits)


def test_weights_that_do_not_fit_the_body_are_refused(tmp_path):
    checkpoint(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for change, name in (({"num_hidden_layers": 3}, r"layer\.2"), ({"vocab_size": 61}, "word_embeddings")):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ModelError, match=rf"(?s)weights do not fit.*{name}"):
            HuggingFace(path=str(tmp_path)).build(signature(), code=())


def test_a_pickle_is_read_only_where_the_command_line_names_it(tmp_path):
    checkpoint(tmp_path, names=NAMES)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path, attn_implementation="eager"
    ).eval()
    (tmp_path / "model.safetensors").unlink()
    pickled = tmp_path / "pytorch_model.bin"
    torch.save(theirs.state_dict(), pickled)
    model = HuggingFace(path=str(tmp_path))
    for code in ((), (tmp_path / "config.json",)):
        with pytest.raises(ModelError, match=rf"(?s)a pickle.*--code {pickled}"):
            model.build(signature(classes=NAMES), code=code)
    ids, mask, _ = padded()
    with torch.no_grad():
        ours = model.build(signature(classes=NAMES), code=(pickled,)).eval()(ids, mask)
        assert torch.equal(ours, theirs(input_ids=ids, attention_mask=mask).logits)
    before = model.identity()
    torch.save({name: tensor + 1 for name, tensor in theirs.state_dict().items()}, pickled)
    assert model.identity() != before


def write_code(folder, *, family):
    """Give a checkpoint with a tokenizer Python code, which leaves a file behind when it is run, for all its parts."""
    mark = folder / "was_run"
    (folder / "own.py").write_text(
        f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n"
        "from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast\n"
        "class Config(BertConfig):\n    model_type = 'own'\n"
        "class Model(BertForSequenceClassification):\n    config_class = Config\n"
        "class Tokens(PreTrainedTokenizerFast):\n    pass\n"
    )
    parts = {"AutoConfig": "own.Config", "AutoModel": "own.Model"}
    parts |= {f"AutoModelFor{kind}Classification": "own.Model" for kind in ("Sequence", "Token")}
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": family, "auto_map": parts}))
    tokens = json.loads((folder / "tokenizer_config.json").read_text())
    told = {"auto_map": {"AutoTokenizer": ["own.Tokens", "own.Tokens"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokens | told))
    return mark


@pytest.mark.parametrize("family", ["bert", "own"])
def test_code_that_comes_with_a_checkpoint_is_never_run(family, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    mark = write_code(text_zoo.make_bert(tmp_path), family=family)
    model = HuggingFace(path=str(tmp_path))
    for words in (False, True):
        if family == "bert":  # transformers knows it without the code
            module = model.build(signature(words=words), code=())
            assert type(module.model).__module__.startswith("transformers.")
            assert "auto_map" not in model.strip(module).config
        else:
            with pytest.raises(ModelError, match="transformers cannot build the model"):
                model.build(signature(words=words), code=())
        with suppress(ModelError):  # a version that needs the code for the tokenizer of an unknown family refuses it
            assert Tokenizer.load(str(tmp_path), max_length=16, words=words).size == len(text_zoo.VOCABULARY)
    assert not mark.exists()
    # The code is found and would run where it is trusted.
    transformers.AutoConfig.from_pretrained(tmp_path, trust_remote_code=True)
    assert mark.exists()


def test_what_is_in_a_local_folder_is_read_without_a_network(tmp_path, monkeypatch):
    folder = text_zoo.make_bert(tmp_path)
    asked = []

    def refuse(*args, **options):
        asked.append(args)
        raise OSError("no network")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    module = HuggingFace(path=str(folder)).build(signature(), code=())
    assert module(*padded()[:2]).shape == (2, 3)
    assert Tokenizer.load(str(folder), max_length=16).size == len(text_zoo.VOCABULARY)
    assert asked == []


def test_a_configuration_can_be_changed_from_scratch_only(tmp_path):
    checkpoint(tmp_path)
    module = HuggingFace(path=str(tmp_path), pretrained=False, change={"num_hidden_layers": 1}).build(
        signature(), code=()
    )
    assert len(module.model.bert.encoder.layer) == 1
    with pytest.raises(ModelError, match="no such value"):
        HuggingFace(path=str(tmp_path), pretrained=False, change={"layers": 1}).build(signature(), code=())
    with pytest.raises(ValueError, match="pretrained: false"):
        HuggingFace(path=str(tmp_path), change={"num_hidden_layers": 1})


@pytest.mark.skipif(transformers.__version__ < "5", reason="transformers 4 counts which layers are local")
def test_fewer_layers_keep_the_kinds_of_the_first_and_more_have_none(tmp_path):
    folder = checkpoint(tmp_path, "modernbert", num_hidden_layers=3, layer_types=None)
    build = partial(HuggingFace, path=str(folder), pretrained=False)
    model = build(change={"num_hidden_layers": 2})
    module = model.build(signature(), code=())
    assert model.strip(module).config["layer_types"] == ["full_attention", "sliding_attention"]
    with pytest.raises(ModelError, match="too many layers"):
        build(change={"num_hidden_layers": 4}).build(signature(), code=())


@pytest.mark.parametrize(
    ("problem", "told"),
    [
        ("single-label", "single_label_classification"),
        ("multi-label", "multi_label_classification"),
        ("regression", "regression"),
    ],
)
def test_the_configuration_that_ships_loads_in_transformers(problem, told, tmp_path):
    checkpoint(tmp_path / "published")
    model = HuggingFace(path=str(tmp_path / "published"))
    expected = signature(classes=NAMES)
    stored = model.strip(model.build(expected, code=()))
    assert model.files(expected, problem=problem, preprocessing={}) == {}
    files = stored.files(expected, problem=problem, preprocessing={})
    assert list(files) == ["config.json"]
    (tmp_path / "config.json").write_text(files["config.json"])
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    assert config.id2label == dict(enumerate(NAMES))
    assert config.label2id == {name: number for number, name in enumerate(NAMES)}
    assert (config.problem_type, config.num_labels, config.hidden_size) == (told, 3, 16)


@pytest.mark.parametrize("pretrained", [True, False])
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_checkpoints_in_half_precision_are_read_in_float32(tmp_path, half, pretrained):
    config = CONFIGS["bert"]
    transformers.AutoModel.from_config(config).to(half).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == str(half).removeprefix("torch.")
    model = HuggingFace(path=str(tmp_path), pretrained=pretrained)
    module = model.build(signature(), code=())
    assert {value.dtype for value in module.parameters()} == {torch.float32}
    assert model.strip(module).config["dtype"] == "float32"


def image_files(task, tmp_path):
    """What ships beside a vision transformer for a task."""
    _, channels, height, _ = task.signature.inputs[0].shape
    config = transformers.ViTConfig(
        image_size=height, patch_size=4, num_channels=channels, hidden_size=16, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=16,
    )  # fmt: skip
    config.save_pretrained(tmp_path / "vit")
    model = HuggingFace(path=str(tmp_path / "vit"), pretrained=False)
    stored = model.strip(model.build(task.signature, code=()))
    return stored.files(task.signature, problem=task.problem, preprocessing=task.preprocessing)


@pytest.mark.parametrize(
    "preprocess",
    [
        None,
        Preprocess(size=8, resize_to=10, center="down", mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)),
        Preprocess(size=8, resize="squash", crop_pct=0.8, interpolation="lanczos", center="down"),
    ],
)
def test_image_files_enter_a_pipeline_as_they_enter_training(tmp_path, preprocess):
    rng = np.random.default_rng(0)
    for number, size in enumerate([(8, 8), (20, 13), (5, 31)] * 4):
        folder = tmp_path / "images" / "train" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(folder / f"{number:02}.png")
    plain = squash((8, 8), channels="rgb")
    read = read_folder(tmp_path / "images", Manner(plain if preprocess is None else preprocess.steps))
    stated = None if preprocess is None or preprocess.scaled is None else preprocess.scaled
    normalize = None if stated is None else Normalize(mean=stated[0], std=stated[1])
    data = Data(read.roles, read.classes)
    task = ImageClassification.of(data, augment=None, normalize=normalize, preprocess=preprocess)
    for name, text in image_files(task, tmp_path).items():
        (tmp_path / name).write_text(text)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    paths = sorted((tmp_path / "images").glob("*/*/*.png"))
    theirs = processor(images=[Image.open(path) for path in paths], return_tensors="pt")["pixel_values"]
    ours = task.batch(read.roles["train"], torch.arange(len(paths))).inputs[0]
    assert stated or float(ours.std()) == pytest.approx(1, abs=0.01)
    torch.testing.assert_close(theirs.float(), ours, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("channels", "dtype"), [(1, np.uint8), (3, np.float32)])
def test_images_that_a_pipeline_cannot_read_ship_without_an_image_processor(channels, dtype, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (8, channels, 8, 8)).astype(dtype)
    data = Data({"train": Samples(images, np.arange(8) % 2)}, ("a", "b"))
    assert list(image_files(ImageClassification.of(data, augment=None), tmp_path)) == ["config.json"]


def test_a_tokenizer_that_the_model_has_no_room_for_is_refused(make_context, tmp_path):
    folder = text_zoo.make_bert(tmp_path)
    data = text_zoo.review_data()
    context = replace(make_context(), task=text_zoo.text_task(folder, data), data=data)
    few = HuggingFace(path=str(folder), pretrained=False, change={"vocab_size": 50})
    with pytest.raises(ModelError, match=rf"(?s)more tokens.*at most 50.*{len(text_zoo.VOCABULARY)}"):
        Create(model=few).build(*context)
    long = replace(context, task=text_zoo.text_task(folder, data, max_length=65))
    with pytest.raises(ModelError, match=r"(?s)more tokens than the model has positions.*at most 64.*max_length: 64"):
        Create(model=HuggingFace(path=str(folder))).build(*long)
    Create(model=HuggingFace(path=str(folder))).build(
        *replace(context, task=text_zoo.text_task(folder, data, max_length=64))
    )


@pytest.mark.parametrize("family", CONFIGS)
def test_the_number_of_positions_is_what_the_model_can_read(family, tmp_path):
    module = HuggingFace(path=str(checkpoint(tmp_path, family))).build(signature(), code=()).eval()
    longest = module.max_positions
    ids = torch.full((1, longest or 200), 7)
    with torch.no_grad():
        assert np.isfinite(module(ids, torch.ones_like(ids)).numpy()).all()
        if longest is not None:
            longer = torch.full((1, longest + 1), 7)
            with pytest.raises((IndexError, RuntimeError)):
                module(longer, torch.ones_like(longer))
