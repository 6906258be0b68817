"""Which normalisation given weights get: the one that is stated, or that their own configuration states, or none."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from compress.data import Data, Samples
from compress.errors import ModelError
from compress.models import HuggingFace, Timm, UserFile
from compress.recipe import DataConfig, Teacher
from compress.tasks import ImageClassification, Normalize

GIVEN = {"expected_accuracy": 0.9}


def task(data: Data, teacher: Teacher, **fields) -> ImageClassification:
    config = DataConfig.model_validate({"source": "digits", **fields})
    found = config.task_of(data, tokenizer=None, teachers=[teacher])
    assert isinstance(found, ImageClassification)
    return found


def write(folder: Path, **values) -> Teacher:
    (folder / "preprocessor_config.json").write_text(json.dumps(values))
    return Teacher(model=HuggingFace(path=str(folder)), **GIVEN)


@pytest.mark.parametrize(
    ("values", "formula"),
    [
        ({"image_mean": [0.5], "image_std": [0.25]}, "(x / 255 - 0.5) / 0.25"),
        ({"image_mean": 0.5, "image_std": 0.25}, "(x / 255 - 0.5) / 0.25"),
        ({"do_normalize": False}, "x / 255"),
        ({"do_normalize": False, "do_rescale": False}, "(x / 255 - 0) / 0.00392157"),
        ({"image_mean": [1.0], "image_std": [1.0], "rescale_factor": 1 / 127.5}, "(x / 255 - 0.5) / 0.5"),
    ],
)
def test_a_folders_own_configuration_is_read(digits, tmp_path, values, formula):
    assert task(digits, write(tmp_path, **values)).input_formula == formula


@pytest.mark.parametrize(
    ("values", "got"),
    [
        ({}, "no configuration beside them for 1 channel"),
        ({"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}, "no configuration beside them for 1 channel"),
        ({"do_normalize": False, "rescale_offset": True}, "no configuration beside them for 1 channel"),
    ],
)
def test_one_that_says_nothing_of_these_images_is_refused_with_what_to_write(digits, tmp_path, values, got):
    with pytest.raises(ModelError, match="is not stated") as caught:
        task(digits, write(tmp_path, **values))
    train = ImageClassification.of(digits, augment=None)
    for words in (got, "data.normalize: identity", f"{{mean: {[*train.mean]}, std: {[*train.std]}}}"):
        assert words in str(caught.value)


def test_numbers_beyond_0_to_1_are_not_what_a_configuration_speaks_of(digits, tmp_path):
    images = {
        role: Samples(samples.inputs.astype(np.float32), samples.labels) for role, samples in digits.roles.items()
    }
    data = Data(roles=images, classes=digits.classes)
    teacher = write(tmp_path, image_mean=[0.5], image_std=[0.25])
    with pytest.raises(ModelError, match=r"mean \[0.5\], std \[0.25\] in their configuration"):
        task(data, teacher)
    assert task(data, teacher, normalize="identity").input_formula == "x"


def test_a_users_file_that_brings_weights_must_be_stated(digits):
    teacher = Teacher(model=UserFile(path=Path("my_model.py")), **GIVEN)
    with pytest.raises(ModelError, match="is not stated"):
        task(digits, teacher)
    assert task(digits, teacher, normalize="identity").input_formula == "x / 255"
    stated = Normalize(mean=(0.5,), std=(0.25,))
    assert task(digits, teacher, normalize=stated).input_formula == "(x / 255 - 0.5) / 0.25"


def test_timms_own_configuration_is_read(digits, monkeypatch):
    """timm is an extra, which the tests' environment does not have."""
    three = SimpleNamespace(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(get_pretrained_cfg={"known": three}.get))
    teacher = Teacher(model=Timm(name="known", pretrained=True), **GIVEN)
    roles = {
        role: Samples(np.repeat(samples.inputs, 3, axis=1), samples.labels) for role, samples in digits.roles.items()
    }
    found = task(Data(roles=roles, classes=digits.classes), teacher)
    assert found.input_formula == "(x / 255 - [0.1, 0.2, 0.3]) / [0.4, 0.5, 0.6]"
    assert Timm(name="unknown", pretrained=True).normalization() is None
