"""Image files as timm and transformers would read them: within one grey level, on images of every kind."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import transformers
from PIL import Image
from pydantic import ValidationError

from compress.data.preprocess import Preprocess, Published
from compress.data.read_image import Steps, fit, open_upright, read_image, to_array
from compress.data.roles import Split
from compress.data.sources import Digits, ImageFolder
from compress.errors import DataError
from compress.models import Timm
from compress.recipe.sections import DataConfig, Teacher
from tests.data.odd_images import write_odd_images

GOLDEN = Path(__file__).parent / "golden" / "timm.npz"


@pytest.fixture(scope="module")
def odd(tmp_path_factory) -> list[Path]:
    return write_odd_images(tmp_path_factory.mktemp("odd"))


def write(path: Path, told: dict) -> Path:
    path.write_text(json.dumps(told))
    return path


@pytest.mark.parametrize("name", ["center", "oblong", "squash", "border"])
def test_files_are_read_as_timm_reads_them(odd, tmp_path, name):
    with np.load(GOLDEN) as stored:
        expected, config = stored[name], json.loads(str(stored["configs"]))[name]
    found = Preprocess.read(write(tmp_path / "config.json", {"architecture": "x", "pretrained_cfg": config}))
    pixels = np.stack([read_image(path, found.steps) for path in odd])
    assert np.abs(pixels.astype(int) - expected).max() <= 1
    assert found.scaled == (
        tuple(config.get("mean", (0.485, 0.456, 0.406))),
        tuple(config.get("std", (0.229, 0.224, 0.225))),
    )


PROCESSORS = [
    ("ViTImageProcessorPil", {"size": {"height": 14, "width": 11}}),
    ("ViTImageProcessorPil", {"size": {"height": 14, "width": 14}, "resample": 0, "do_normalize": False}),
    ("CLIPImageProcessorPil", {"size": {"shortest_edge": 17}, "crop_size": {"height": 14, "width": 14}}),
    ("CLIPImageProcessorPil", {"size": {"shortest_edge": 12}, "crop_size": {"height": 15, "width": 15}}),  # padded
    ("DeiTImageProcessorPil", {"size": {"height": 18, "width": 18}, "crop_size": {"height": 15, "width": 15}}),
    ("BitImageProcessorPil", {"size": {"shortest_edge": 16}, "crop_size": {"height": 13, "width": 13}, "resample": 1}),
    ("ConvNextImageProcessorPil", {"size": {"shortest_edge": 14}}),
    ("LevitImageProcessorPil", {"size": {"shortest_edge": 14}, "crop_size": {"height": 14, "width": 14}}),
    ("MobileNetV2ImageProcessorPil", {"size": {"shortest_edge": 16}, "crop_size": {"height": 14, "width": 14}}),
    ("MobileViTImageProcessorPil", {"size": {"shortest_edge": 18}, "crop_size": {"height": 15, "width": 15}}),
    ("PoolFormerImageProcessorPil", {"size": {"shortest_edge": 14}, "crop_size": {"height": 14, "width": 14}}),
    ("EfficientNetImageProcessorPil", {"size": {"height": 14, "width": 14}}),
    ("SiglipImageProcessorPil", {"size": {"height": 14, "width": 14}, "rescale_factor": 1 / 127.5}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "fields"), PROCESSORS)
def test_files_are_read_as_transformers_reads_them(odd, tmp_path, kind, fields):
    processor = getattr(transformers, kind)(**fields)
    processor.save_pretrained(tmp_path)
    found = Preprocess.read(tmp_path / "preprocessor_config.json")
    # As its pipelines load files, but for what Pillow notes of a palette's transparency, which it would read again.
    images = [Image.fromarray(np.asarray(open_upright(path)[0].convert("RGB"))) for path in odd]
    theirs = np.stack([processor(image, return_tensors="np")["pixel_values"][0] for image in images])
    assert found.scaled is not None
    mean, std = (np.array(side).reshape(-1, 1, 1) for side in found.scaled)
    ours = (np.stack([read_image(path, found.steps) for path in odd]) / 255 - mean) / std
    assert np.abs((ours - theirs) * std).max() <= 1.01 / 255


def test_old_files_of_transformers_say_sizes_as_numbers(tmp_path):
    told = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2}
    square = Preprocess.read(
        write(tmp_path / "a.json", told | {"feature_extractor_type": "ViTFeatureExtractor", "size": 20})
    )
    assert (square.resize, square.size) == ("squash", (20, 20))
    told |= {"feature_extractor_type": "CLIPFeatureExtractor", "size": 20, "crop_size": 18}
    shortest = Preprocess.read(write(tmp_path / "b.json", told))
    assert (shortest.resize, shortest.resize_to, shortest.size) == ("shortest", 20, (18, 18))


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"image_processor_type": "DetrImageProcessor"}, "DetrImageProcessor; known are"),
        ({"image_processor_type": "ViTImageProcessor", "do_resize": False}, "do_resize: false"),
        ({"image_processor_type": "EfficientNetImageProcessor", "rescale_offset": True}, "rescale_offset"),
        (
            {
                "image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 8}, "do_center_crop": False,
                "do_normalize": False, "resample": 3,
            },
            "different sizes",
        ),
        ({"model_type": "bert"}, "no 'feature_extractor_type'"),
        ({"pretrained_cfg": {"interpolation": "bicubic"}}, "no 'input_size'"),
        ({"pretrained_cfg": {"input_size": [3, 8, 8], "crop_mode": "corner"}}, "no 'corner'"),
        (["a list"], "no 'feature_extractor_type'"),
    ],
)  # fmt: skip
def test_a_file_that_says_no_known_preprocessing_is_refused(tmp_path, told, words):
    with pytest.raises(DataError, match=words):
        Preprocess.read(write(tmp_path / "odd.json", told))


@pytest.mark.parametrize("content", [None, "{"])
def test_a_missing_or_broken_file_is_named(tmp_path, content):
    path = tmp_path / "preprocessor_config.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=r"(?s)cannot be read.*preprocessor_config.json"):
        Preprocess.read(path)


@pytest.mark.parametrize(
    "fields",
    [
        {"size": 8, "mean": (0.5,)},
        {"size": 8, "mean": (0.5, 0.5), "std": (0.5, 0.5)},
        {"size": 8, "crop_pct": 0.9, "resize_to": 10},
        {"size": 8, "channels": "grayscale", "mean": (0.5,) * 3, "std": (0.5,) * 3},
        {"size": 8, "std": (0.0,), "mean": (0.0,)},
    ],
)
def test_numbers_that_do_not_fit_each_other_are_refused(fields):
    with pytest.raises(ValidationError):
        Preprocess(**fields)


def test_bgr_is_rgb_from_its_other_end():
    image = Image.new("RGB", (3, 2), (1, 2, 3))
    found = [to_array(fit(image, steps), steps)[:, 0, 0].tolist() for steps in map(_plain, ("rgb", "bgr"))]
    assert found == [[1, 2, 3], [3, 2, 1]]


def _plain(channels: str) -> Steps:
    return Preprocess(size=(2, 3), channels=channels).steps


def test_a_box_is_filled_with_the_mean_on_both_sides():
    steps = Preprocess(size=8, resize="box", mean=(0.2, 0.4, 0.6), std=(1, 1, 1)).steps
    pixels = to_array(fit(Image.new("RGB", (40, 20), (9, 9, 9)), steps), steps)
    assert pixels[:, 2:6].max() == pixels[:, 2:6].min() == 9
    assert pixels[:, [0, 1, 6, 7]].transpose(1, 2, 0).reshape(-1, 3).tolist() == [[51, 102, 153]] * 32


def libraries(monkeypatch):
    """What timm and torchvision say of two of their models."""
    config = {
        "input_size": (3, 7, 7),
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": (0.5,) * 3,
        "std": (0.2,) * 3,
    }
    told = SimpleNamespace(to_dict=lambda: config, mean=config["mean"], std=config["std"])
    timm = SimpleNamespace(get_pretrained_cfg=lambda name: told if name == "small.a1" else None)
    preset = SimpleNamespace(
        crop_size=[7], resize_size=[9], interpolation=SimpleNamespace(value="bilinear"), mean=(0.5,) * 3, std=(0.2,) * 3
    )
    weights = SimpleNamespace(transforms=lambda: preset)
    models = SimpleNamespace(
        get_weight=lambda name: {"Small_Weights.V1": weights}[name],
        get_model_weights=lambda name: {"small": SimpleNamespace(DEFAULT=weights)}[name],
    )
    for name, module in (
        ("timm", timm),
        ("torchvision", SimpleNamespace(models=models)),
        ("torchvision.models", models),
    ):
        monkeypatch.setitem(sys.modules, name, module)


def test_published_weights_say_by_name_how_files_are_read(monkeypatch):
    libraries(monkeypatch)
    found = Published(timm="small.a1").read()
    assert (found.size, found.crop_pct, found.interpolation) == ((7, 7), 0.875, "bicubic")
    found = Published(torchvision="Small_Weights.V1").read()
    assert (found.size, found.resize_to, found.interpolation, found.resize) == (7, 9, "bilinear", "shortest")
    assert Published(torchvision="small").read() == found
    for unknown in ({"timm": "none"}, {"torchvision": "none"}, {"torchvision": "None_Weights.V1"}):
        with pytest.raises(DataError, match=r"no preprocessing is known by this name[\s\S]*data.preprocess: [nN]one"):
            Published(**unknown).read()
    with pytest.raises(ValidationError, match="one of timm and torchvision"):
        Published()


def test_a_teacher_by_name_brings_its_preprocessing_where_nothing_else_says_one(folder, monkeypatch):
    libraries(monkeypatch)
    config = DataConfig(source=ImageFolder(root=folder), split=Split(test=0.3, select=0.3))
    timm = Teacher(model=Timm(name="small.a1", pretrained=True), expected_accuracy=0.5)
    found = config.expecting(timm)
    assert found.preprocess == Published(timm="small.a1")
    data = found.load()
    assert data.train.inputs.shape[1:] == (3, 7, 7)
    assert found.task_of(data, tokenizer=None, teachers=[timm]).std == (0.2,) * 3
    for said in (
        config.model_copy(update={"source": ImageFolder(root=folder, size=8)}),
        config.model_copy(update={"preprocess": Preprocess(size=8)}),
        config.model_copy(update={"normalize": "identity"}),
    ):
        assert said.expecting(timm) is said
    fresh = Teacher(model=Timm(name="small.a1"), weights=folder / "mine.pt")
    assert config.expecting(fresh) is config


@pytest.fixture
def folder(tmp_path) -> Path:
    for number, name in enumerate(("cat", "dog")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index in range(60):
            pixels = np.random.default_rng(60 * number + index).integers(0, 256, (9 + index % 5, 12, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{index}.png")
    return tmp_path / "photos"


def test_a_recipe_reads_its_folder_as_the_file_says(folder, tmp_path):
    path = write(
        tmp_path / "config.json", {"pretrained_cfg": {"input_size": [3, 7, 7], "mean": [0.1] * 3, "std": [0.2] * 3}}
    )
    split = Split(test=0.3, select=0.3)
    config = DataConfig(source=ImageFolder(root=folder), split=split, preprocess=path)
    written = DataConfig(source=ImageFolder(root=folder), split=split, preprocess=Preprocess.read(path))
    data = config.load()
    assert data.train.inputs.shape[1:] == (3, 7, 7)
    assert data.digest == written.load().digest
    task, same = (each.task_of(data, tokenizer=None) for each in (config, written))
    assert task.digest == same.digest
    assert (task.mean, task.std) == ((0.1,) * 3, (0.2,) * 3)
    assert task.preprocessing["files"]["resize_to"] == (8, 8)
    assert "x covers 8 x 8 (bicubic), its centre 7 x 7, rgb" in task.input_formula


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (lambda root: DataConfig(source=ImageFolder(root=root)), "neither"),
        (lambda root: DataConfig(source=ImageFolder(root=root, size=8), preprocess=Preprocess(size=8)), "both"),
        (lambda root: DataConfig(source=Digits(), preprocess=Preprocess(size=8)), "only image files"),
    ],
)
def test_what_images_become_is_said_once(folder, config, words):
    with pytest.raises(DataError, match=words):
        config(folder).load()


def test_a_normalisation_is_said_once(folder):
    preprocess = Preprocess(size=8, mean=(0.5,), std=(0.5,))
    split = Split(test=0.3, select=0.3)
    config = DataConfig(source=ImageFolder(root=folder), split=split, preprocess=preprocess, normalize="identity")
    with pytest.raises(DataError, match="said twice"):
        config.task_of(config.load(), tokenizer=None)


def test_a_palette_with_a_transparency_for_each_colour_is_read_without_a_warning(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (9, 9, 3)).astype(np.uint8)
    image = Image.fromarray(colours).quantize(16)
    image.save(tmp_path / "some.png", transparency=bytes(range(0, 256, 16)))
    steps = Steps((9, 9))
    np.testing.assert_array_equal(read_image(tmp_path / "some.png", steps), to_array(image.convert("RGB"), steps))
