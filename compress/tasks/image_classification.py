"""Image classification: one image in, one row of logits out, one label per image."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from typing import Annotated, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, FiniteFloat, SerializerFunctionWrapHandler, model_serializer
from torch import nn
from torch.nn import functional as F

from compress.config import Values
from compress.data.preprocess import Preprocess
from compress.data.read_image import Steps, fit, to_array
from compress.data.samples import Data, Samples
from compress.data.stored import ImageFiles, Stored
from compress.errors import DataError
from compress.measures.judge import Judge, single_label
from compress.measures.tally import Tally
from compress.tasks.batch import Batch, View
from compress.tasks.linear import LinearPixels
from compress.tasks.signature import Signature, Tensor
from compress.tasks.task import Problem, Task
from compress.tasks.vary import ColourJitter, Erase, RandAugment, ResizedCrop

MEASURES = ("accuracy", "macro-f1", "matthews")
MIXED_VIEWS = 4  # of samples that are mixed but not augmented


class Augment(Values):
    """Random crops, flips, colours and more, drawn from a fixed number of views.

    View v of sample i is the same image in every epoch, stage and run with the same seed, so that a teacher's outputs
    are computed once per view and reused (TinyViT, Wu et al. 2022, arXiv 2207.10666, stores seeds to the same end).

    Attributes:
        crop_padding: pixels of zero padding on each side before a random crop of the original size; none beside
            ``resized_crop``.
        flip: mirror left to right with probability one half.
        views: how many different views of each sample exist.
        seed: draws the views; apart from the training seed, so that seeds and stages share them.
        resized_crop: a random part of the image, resized: of image files on disk a part of the file, of others of the
            image as it was read.
        colour_jitter: other brightness, contrast and saturation.
        rand_augment: random operations on the picture.
        erase: a rectangle of the mean colour.
    """

    crop_padding: Annotated[int, Field(ge=0, le=64)] = 2
    flip: bool = False
    views: Annotated[int, Field(ge=1, le=64)] = 4
    seed: int = 0
    resized_crop: ResizedCrop | None = None
    colour_jitter: ColourJitter | None = None
    rand_augment: RandAugment | None = None
    erase: Erase | None = None

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the keys that came later where they say nothing, so that stored runs are found as ever."""
        later = ("resized_crop", "colour_jitter", "rand_augment", "erase")
        return {name: value for name, value in write(self).items() if name not in later or value is not None}

    @property
    def of_pictures(self) -> bool:
        """Whether it changes pictures one by one."""
        return any(part is not None for part in (self.resized_crop, self.colour_jitter, self.rand_augment, self.erase))


class Normalize(Values):
    """The normalisation that given weights were trained with, in units of the scaled input (0 to 1 for uint8 images).

    Attributes:
        mean: subtracted from each channel.
        std: divides each channel, above 0.
    """

    mean: tuple[FiniteFloat, ...]
    std: tuple[Annotated[FiniteFloat, Field(gt=0)], ...]

    def model_post_init(self, _context: object) -> None:
        """Refuse means that do not pair with deviations."""
        if len(self.mean) != len(self.std):
            raise ValueError(f"expected one std per mean, got {len(self.std)} for {len(self.mean)} channels")

    @classmethod
    def identity(cls, channels: int) -> Self:
        """Return the one that leaves the scaled images as they are."""
        return cls(mean=(0.0,) * channels, std=(1.0,) * channels)

    def over(self, channels: int) -> Self | None:
        """Return it for this number of channels, a single mean for all of them; None when it is for another number."""
        if len(self.mean) == 1:
            return type(self)(mean=self.mean * channels, std=self.std * channels)
        return self if len(self.mean) == channels else None

    @classmethod
    def of_train(cls, inputs: NDArray[Any] | Stored) -> Self:
        """Return the mean and deviation of each channel of raw images [N, C, H, W], scaled as the task scales them.

        Of images on disk, those of some of them, evenly spread: see `compress.data.stored`.
        """
        axes, scale = (0, 2, 3), scale_of(inputs)
        if isinstance(inputs, Stored):
            raw_mean, raw_std = inputs.statistics()
        else:
            raw_mean, raw_std = (of(axis=axes, dtype=np.float64) for of in (inputs.mean, inputs.std))
        mean, std = raw_mean * scale, np.maximum(raw_std * scale, 1e-6)
        return cls(
            mean=tuple(round(float(value), 6) for value in mean), std=tuple(round(float(value), 6) for value in std)
        )


@dataclass(frozen=True)
class ImageClassification(Task):
    """How images become batches, how outputs become a loss and a score.

    Attributes:
        classes: class names in label order.
        shape: channels, height, width of one image.
        scale: what raw values are multiplied by: 1/255 for uint8 images, 1 for float32 arrays.
        mean: what is subtracted from each channel of the scaled images.
        std: what then divides it.
        augment: views for training, or None.
        judge: what counts as right.
        preprocess: how image files were read; None where they were squashed, or there were none.
    """

    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: Augment | None = None
    judge: Judge = Judge()
    preprocess: Preprocess | None = None

    @classmethod
    def of(
        cls,
        data: Data,
        *,
        augment: Augment | None,
        normalize: Normalize | None = None,
        judge: Judge | None = None,
        preprocess: Preprocess | None = None,
    ) -> "ImageClassification":
        """Return the task for these data.

        Args:
            data: samples by role.
            augment: views for training, or None.
            normalize: None takes the per-channel mean and standard deviation of the train role.
            judge: what counts as right; None takes accuracy.
            preprocess: how image files were read.

        Raises:
            DataError: when the inputs are no images [N, C, H, W] of uint8 or float32, ``normalize`` is for another
                number of channels, or ``judge`` does not fit the classes.
        """
        inputs = data.train.inputs
        if inputs.ndim != 4 or inputs.dtype not in (np.uint8, np.float32):
            raise DataError(
                "image classification needs images",
                expected="uint8 or float32 [samples, channels, height, width]",
                got=f"{inputs.dtype} {list(inputs.shape)}",
            )
        if augment is not None and augment.of_pictures and (inputs.dtype != np.uint8 or inputs.shape[1] not in (1, 3)):
            raise DataError(
                "only pictures are cropped, coloured and erased at random",
                expected="uint8 images of 1 or 3 channels, or data.augment with crop_padding and flip alone",
                got=f"{inputs.dtype} {list(inputs.shape[1:])}",
                where="data.augment",
            )
        judge = judge or Judge()
        judge.group_classes(data.classes)
        judge.choose(MEASURES)
        if normalize is None:
            normalize = Normalize.of_train(inputs)
        elif len(normalize.mean) != inputs.shape[1]:
            raise DataError(
                "data.normalize is for images with another number of channels",
                expected=f"{inputs.shape[1]} means and deviations",
                got=len(normalize.mean),
                where="data.normalize",
            )
        return cls(
            classes=data.classes,
            shape=(int(inputs.shape[1]), int(inputs.shape[2]), int(inputs.shape[3])),
            scale=scale_of(inputs),
            mean=normalize.mean,
            std=normalize.std,
            augment=augment,
            judge=judge,
            preprocess=preprocess,
        )

    @property
    def problem(self) -> Problem:
        """One class for each image."""
        return "single-label"

    @property
    def measure(self) -> str:
        """The measure that gates and choices are about."""
        return self.judge.choose(MEASURES)

    @property
    def augmented(self) -> bool:
        """Whether training varies its samples."""
        return self.augment is not None

    def plain(self) -> Self:
        """Return the task without augmentation."""
        return replace(self, augment=None)

    @property
    def signature(self) -> Signature:
        """One float32 image batch in, one float32 logits batch out, under the names that transformers gives them."""
        return Signature(
            inputs=(Tensor(name="pixel_values", dtype="float32", shape=("batch", *self.shape)),),
            outputs=(Tensor(name="logits", dtype="float32", shape=("batch", len(self.classes))),),
            classes=self.classes,
        )

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What a deployment must do to raw images: ``(raw * scale - mean) / std`` per channel, channels first."""
        told = {"layout": "NCHW", "scale": self.scale, "mean": list(self.mean), "std": list(self.std)}
        return told if self.preprocess is None else told | {"files": asdict(self.preprocess.steps)}

    @property
    def input_formula(self) -> str:
        """What a model gets of an image x, as a formula; of files, also what is done to their pixels first."""
        formula = self._pixel_formula
        return formula if self.preprocess is None else f"{formula}; {self.preprocess.words}"

    @property
    def _pixel_formula(self) -> str:
        scaled = "x / 255" if self.scale != 1 else "x"
        if not any(self.mean) and set(self.std) == {1.0}:
            return scaled
        mean, std = (f"{side[0]:g}" if len(side) == 1 else str([*side]) for side in (self.mean, self.std))
        return f"({scaled} - {mean}) / {std}"

    def views(self, *, mixup: float = 0.0) -> tuple[View | None, ...]:
        """The views that training draws from; ``(None,)`` without augmentation and mixture."""
        if self.augment is None and not mixup:
            return (None,)
        count = MIXED_VIEWS if self.augment is None else self.augment.views
        return tuple(View(number, mixup) for number in range(count))

    @cached_property
    def state(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride] # a property, computed once
        """SHA-256 of everything that decides what a batch holds."""
        augment = None if self.augment is None else self.augment.model_dump_json()
        state: tuple[object, ...] = (self.classes, self.shape, self.scale, self.mean, self.std, augment)
        if self.judge != Judge():
            state = (*state, self.judge.model_dump_json())
        if self.preprocess is not None:
            state = (*state, self.preprocess.steps)
        return hashlib.sha256(repr(state).encode()).hexdigest()

    def batch(self, samples: Samples, index: torch.Tensor, *, view: View | None = None) -> Batch:
        """Return the preprocessed samples at these positions.

        Args:
            samples: a role.
            index: int64 [B].
            view: which view of them; None for the plain images. A mixture takes the same partner with the same
                coefficient whenever its view is taken, and mixed samples have no labels.
        """
        if view is not None and view.mixup:
            partners, own = _mixtures(view, count=len(samples))
            alone = View(view.number)
            left, right = (self.batch(samples, rows, view=alone).inputs[0] for rows in (index, partners[index]))
            return Batch(
                inputs=(torch.lerp(right, left, own[index].view(-1, 1, 1, 1)),), labels=None, index=index, view=view
            )
        positions = index.numpy()
        if view is not None and self.augment is not None and self.augment.of_pictures:
            drawn = [self._picture(samples, int(position), self.augment, view=view) for position in positions]
            images = torch.from_numpy(np.stack(drawn))
        else:
            images = torch.from_numpy(np.ascontiguousarray(samples.inputs[positions]))
        if view is not None and self.augment is not None:
            images = self._augmented(images, index, view=view, count=len(samples))
        mean = torch.tensor(self.mean).view(-1, 1, 1)
        std = torch.tensor(self.std).view(-1, 1, 1)
        inputs = images.to(torch.float32).mul_(self.scale).sub_(mean).div_(std)
        labels = None if samples.labels is None else torch.from_numpy(samples.labels[positions])
        return Batch(inputs=(inputs,), labels=labels, index=index, view=view)

    def _picture(self, samples: Samples, position: int, augment: Augment, *, view: View) -> NDArray[np.uint8]:
        """Return a view of one image, uint8 [C, H, W], drawn by (seed, sample, view) alone."""
        generator = np.random.default_rng([augment.seed % 2**32, view.number, position])
        channels, *size = self.shape
        bgr = self.preprocess is not None and self.preprocess.channels == "bgr"
        steps = Steps((size[0], size[1]), channels="grayscale" if channels == 1 else "bgr" if bgr else "rgb")
        inputs = samples.inputs
        if augment.resized_crop is not None and isinstance(inputs, ImageFiles):
            image = inputs.open(position).convert("L" if channels == 1 else "RGB")
        else:
            pixels = inputs[position]
            image = Image.fromarray(pixels[0] if channels == 1 else np.moveaxis(pixels[::-1] if bgr else pixels, 0, 2))
        if augment.resized_crop is not None:
            image = augment.resized_crop.apply(image, steps.size, generator)
        for change in (augment.colour_jitter, augment.rand_augment):
            image = image if change is None else change.apply(image, generator)
        found = np.array(to_array(fit(image, steps), steps))
        if augment.erase is not None:
            fill = np.clip(np.round(np.array(self.mean) / self.scale), 0, 255).astype(np.uint8)
            augment.erase.apply(found, fill, generator)
        return found

    def _augmented(self, images: torch.Tensor, index: torch.Tensor, *, view: View, count: int) -> torch.Tensor:
        assert self.augment is not None
        pad = self.augment.crop_padding if self.augment.resized_crop is None else 0
        flip, seed = self.augment.flip, self.augment.seed
        tops, lefts, flips = _draws(seed=seed, padding=pad, flip=flip, view=view.number, count=count)
        _, height, width = self.shape
        if pad:
            padded = F.pad(images, (pad, pad, pad, pad))
            rows = (tops[index].unsqueeze(1) + torch.arange(height)).view(-1, 1, height, 1)
            columns = (lefts[index].unsqueeze(1) + torch.arange(width)).view(-1, 1, 1, width)
            samples = torch.arange(len(images)).view(-1, 1, 1, 1)
            channels = torch.arange(images.shape[1]).view(1, -1, 1, 1)
            images = padded[samples, channels, rows, columns]
        return torch.where(flips[index].view(-1, 1, 1, 1), images.flip(-1), images)

    def simplest(self) -> LinearPixels:
        """Return logistic regression on pixels."""
        return LinearPixels(len(self.classes))

    def forward(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Return logits [B, classes]."""
        return model(*batch.inputs)

    def tallies(self, outputs: NDArray[np.floating], samples: Samples) -> Mapping[str, Tally]:
        """Return every measure that fits the task, by its name."""
        labels = self.labels(samples)
        return single_label(outputs.argmax(axis=1), labels, self.classes, self.judge) | self.judge.own(outputs, labels)


def scale_of(inputs: NDArray[Any] | Stored) -> float:
    """Return what raw images are multiplied by before anything else: bytes become 0 to 1, other numbers stay."""
    return 1 / 255 if inputs.dtype == np.uint8 else 1.0


@lru_cache(maxsize=64)
def _mixtures(view: View, *, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a partner for each sample (int64 [N]) and the sample's own share of the mixture (float32 [N], 0 to 1)."""
    generator = torch.Generator().manual_seed(5_000_011 + view.number)
    partners = torch.randint(count, (count,), generator=generator)
    own = torch.rand(count, generator=generator)
    mixed = torch.rand(count, generator=generator) < view.mixup
    return partners, torch.where(mixed, own, 1.0)


@lru_cache(maxsize=64)
def _draws(
    *, seed: int, padding: int, flip: bool, view: int, count: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return crop tops and lefts (int64 [N]) and flips (bool [N]) of one view."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + view)
    high = 2 * padding + 1
    tops = torch.randint(high, (count,), generator=generator)
    lefts = torch.randint(high, (count,), generator=generator)
    flips = torch.rand(count, generator=generator) < (0.5 if flip else 0.0)
    return tops, lefts, flips
