"""Batches: normalised by the train role or as given, augmented by fixed views."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from compress.data import Data, Samples
from compress.errors import DataError
from compress.tasks import Augment, ImageClassification, Normalize, View


@pytest.fixture
def images() -> Data:
    rng = np.random.default_rng(0)
    samples = Samples(rng.integers(0, 256, (40, 2, 6, 5), dtype=np.uint8), rng.integers(0, 3, 40))
    return Data(roles=dict.fromkeys(("train", "calibration", "select", "test"), samples), classes=("a", "b", "c"))


def test_normalisation_gives_zero_mean_and_unit_deviation(images):
    task = ImageClassification.of(images, augment=None)
    (x,) = task.batch(images.train, torch.arange(40)).inputs
    assert x.dtype == torch.float32
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3), correction=0), torch.ones(2), atol=1e-4, rtol=0)


def test_given_weights_are_fed_what_they_were_trained_with(images):
    normalize = Normalize(mean=(0.485, 0.5), std=(0.229, 0.25))
    task = ImageClassification.of(images, augment=None, normalize=normalize)
    (x,) = task.batch(images.train, torch.tensor([3])).inputs
    assert float(x[0, 0, 2, 4]) == pytest.approx((images.train.inputs[3, 0, 2, 4] / 255 - 0.485) / 0.229, rel=1e-5)
    assert (task.preprocessing["mean"], task.preprocessing["std"]) == ([0.485, 0.5], [0.229, 0.25])
    assert task.digest != ImageClassification.of(images, augment=None).digest


def test_a_normalisation_that_does_not_fit_is_refused(images):
    three = Normalize(mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(DataError, match="2 means and deviations"):
        ImageClassification.of(images, augment=None, normalize=three)
    with pytest.raises(ValidationError, match="one std per mean"):
        Normalize(mean=(0.5,), std=(0.5, 0.5))
    with pytest.raises(ValidationError, match="greater than 0"):
        Normalize(mean=(0.5,), std=(0.0,))


@pytest.mark.parametrize("normalize", [None, Normalize(mean=(0.485, 0.5), std=(0.229, 0.25))])
def test_batch_equals_the_documented_preprocessing(images, normalize):
    task = ImageClassification.of(images, augment=None, normalize=normalize)
    (x,) = task.batch(images.train, torch.tensor([3, 1])).inputs
    how = task.preprocessing
    mean, std = (np.array(how[key]).reshape(-1, 1, 1) for key in ("mean", "std"))
    expected = (images.train.inputs[[3, 1]] * how["scale"] - mean) / std
    np.testing.assert_allclose(x.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_a_view_is_the_same_whatever_batch_it_is_in(images):
    task = ImageClassification.of(images, augment=Augment(crop_padding=2, flip=True, views=2))
    (all_at_once,) = task.batch(images.train, torch.arange(40), view=View(1)).inputs
    (some,) = task.batch(images.train, torch.tensor([30, 2]), view=View(1)).inputs
    assert torch.equal(some, all_at_once[[30, 2]])
    (other,) = task.batch(images.train, torch.arange(40), view=View(0)).inputs
    assert not torch.equal(other, all_at_once)


def test_every_augmented_image_is_a_crop_or_mirrored_crop(images):
    """Against a slow crop written out by hand."""
    task = ImageClassification.of(images, augment=Augment(crop_padding=1, flip=True, views=1))
    (x,) = task.batch(images.train, torch.arange(40), view=View(0)).inputs
    how = task.preprocessing
    mean, std = (np.array(how[key]).reshape(-1, 1, 1) for key in ("mean", "std"))
    raw = np.rint((x.numpy() * std + mean) / how["scale"]).astype(int)
    flips = 0
    for image, original in zip(raw, images.train.inputs, strict=True):
        padded = np.pad(original, ((0, 0), (1, 1), (1, 1)))
        crops = [padded[:, top : top + 6, left : left + 5] for top in range(3) for left in range(3)]
        plain = any(np.array_equal(image, crop) for crop in crops)
        mirrored = any(np.array_equal(image, crop[:, :, ::-1]) for crop in crops)
        assert plain or mirrored
        flips += mirrored and not plain
    assert 8 < flips < 32


def test_hard_loss_without_labels_is_refused(images):
    task = ImageClassification.of(images, augment=None)
    batch = task.batch(Samples(images.train.inputs, None), torch.arange(2))
    with pytest.raises(DataError, match="leave the term `hard` out"):
        task.hard_loss(torch.zeros(2, 3), batch)


def test_inputs_that_are_no_images_are_refused(images):
    flat = Samples(np.zeros((4, 7), np.float32), np.zeros(4, np.int64))
    with pytest.raises(DataError, match=r"uint8 or float32 \[samples, channels, height, width\]"):
        ImageClassification.of(Data(roles={**images.roles, "train": flat}, classes=images.classes), augment=None)
