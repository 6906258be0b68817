"""Views of pictures: functions of (seed, sample, view), within their bounds, and of the right size."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from compress.data import Data, Samples
from compress.data.roles import Split
from compress.data.sources import ImageFolder
from compress.errors import DataError
from compress.recipe.sections import DataConfig
from compress.tasks import Augment, ImageClassification, Normalize, View
from compress.tasks.vary import OPERATIONS, ColourJitter, Erase, RandAugment, ResizedCrop, draw_box

FULL = Augment(
    resized_crop=ResizedCrop(), colour_jitter=ColourJitter(), rand_augment=RandAugment(), erase=Erase(probability=1)
)


def task_of(augment: Augment, *, channels: int = 3, dtype: type = np.uint8) -> tuple[ImageClassification, Samples]:
    images = np.random.default_rng(0).integers(0, 256, (40, channels, 12, 10)).astype(dtype)
    samples = Samples(images, np.arange(40) % 2)
    return ImageClassification.of(Data({"train": samples}, ("a", "b")), augment=augment), samples


@pytest.mark.parametrize("channels", [1, 3])
def test_a_view_of_a_sample_is_the_same_in_any_batch(channels):
    task, samples = task_of(FULL, channels=channels)
    one, view = torch.tensor([7]), View(2)
    batch = task.batch(samples, torch.tensor([3, 7, 11]), view=view).inputs[0]
    assert batch.shape == (3, channels, 12, 10)
    torch.testing.assert_close(task.batch(samples, one, view=view).inputs[0][0], batch[1], rtol=0, atol=0)
    others = (
        task.batch(samples, one, view=View(3)),
        replace(task, augment=FULL.model_copy(update={"seed": 1})).batch(samples, one, view=view),
    )
    assert all(not torch.equal(other.inputs[0][0], batch[1]) for other in others)
    plain = task.batch(samples, one).inputs[0][0]
    torch.testing.assert_close(plain, task.plain().batch(samples, one, view=view).inputs[0][0])


def test_parts_are_within_the_bounds_and_everywhere():
    generator = np.random.default_rng(0)
    boxes = [draw_box(60, 40, (0.1, 0.5), (0.5, 2.0), generator) for _ in range(500)]
    left, top, right, bottom = np.array([box for box in boxes if box is not None]).T
    wide, high = right - left, bottom - top
    assert left.min() >= 0
    assert top.min() >= 0
    assert right.max() <= 60
    assert bottom.max() <= 40
    areas, ratios = wide * high / 2400, wide / high
    assert 0.08 < areas.min() < 0.13
    assert 0.45 < areas.max() < 0.53
    assert 0.45 < ratios.min() < 0.6
    assert 1.7 < ratios.max() < 2.2
    assert abs(np.log(ratios).mean()) < 0.1
    assert draw_box(4, 400, (0.9, 1.0), (1.0, 1.0), generator) is None


def test_the_whole_picture_is_a_part_and_strength_0_changes_nothing():
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (9, 7, 3), np.uint8))
    generator = np.random.default_rng(0)
    whole = ResizedCrop(scale=(1, 1), ratio=(7 / 9, 7 / 9)).apply(image, (9, 7), generator)
    same = ColourJitter(brightness=0, contrast=0, saturation=0).apply(whole, generator)
    np.testing.assert_array_equal(same, image)


@pytest.mark.parametrize("operation", range(len(OPERATIONS)))
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_every_operation_keeps_size_and_mode_and_changes_pixels(operation, mode):
    gradient = np.add.outer(np.arange(20) * 5, np.arange(16) * 6)
    gradient = (gradient + np.random.default_rng(0).integers(0, 20, gradient.shape)).astype(np.uint8)
    image = Image.merge("RGB", [Image.fromarray(level) for level in (gradient, gradient // 2, gradient // 3)]).convert(
        mode
    )
    for sign in (-1.0, 1.0):
        found = OPERATIONS[operation](image, 0.9, sign)
        assert (found.size, found.mode) == (image.size, mode)
        assert mode == "L" or not np.array_equal(found, image)


def test_erased_is_the_mean_which_is_zero_for_the_model():
    task, samples = task_of(Augment(crop_padding=0, erase=Erase(probability=1, scale=(0.3, 0.4))))
    index = torch.arange(40)
    changed = task.batch(samples, index, view=View(0)).inputs[0] != task.batch(samples, index).inputs[0]
    erased = task.batch(samples, index, view=View(0)).inputs[0][changed]
    assert 0.2 < float(changed.any(1).float().mean()) < 0.45
    assert float(erased.abs().max()) < 0.01  # a level of 255


def test_a_part_of_a_file_on_disk_is_cut_from_the_file(tmp_path):
    for name, level in (("a", 0), ("b", 60)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(60):
            pixels = np.random.default_rng(level + number).integers(0, 256, (64, 64, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    small = Augment(resized_crop=ResizedCrop(scale=(0.0157, 0.0157), ratio=(1, 1)))

    def spread(memory_gb: float) -> float:
        """Noise survives where an 8 x 8 part of the file is taken, and is averaged away where the file was shrunk."""
        source = ImageFolder(root=tmp_path / "photos", size=8, memory_gb=memory_gb)
        config = DataConfig(source=source, split=Split(test=0.3, select=0.3), augment=small, normalize="identity")
        data = config.load()
        return float(
            config.task_of(data, tokenizer=None).batch(data.train, torch.arange(8), view=View(0)).inputs[0].std()
        )

    assert spread(0) > 0.25
    assert spread(1) < 0.1


def test_what_is_no_picture_is_refused():
    with pytest.raises(DataError, match="only pictures"):
        task_of(FULL, dtype=np.float32)
    with pytest.raises(ValidationError, match="smaller number first"):
        ResizedCrop(scale=(0.9, 0.1))


def test_recipes_without_them_are_written_as_ever():
    assert set(Augment().model_dump()) == {"crop_padding", "flip", "views", "seed"}
    assert Augment.model_validate(FULL.model_dump()) == FULL
    assert Normalize.identity(3).mean == (0.0, 0.0, 0.0)
