"""How image files become what a model reads, as a recipe says it, or timm and transformers beside their weights."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Discriminator, Field, FiniteFloat, Tag

from compress.config import Values
from compress.config.extras import import_extra
from compress.data.read_image import Steps
from compress.errors import DataError

Side = Annotated[int, Field(ge=1, le=8192)]
Sides = Side | tuple[Side, Side]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Resize = Literal["shortest", "box", "squash"]
Channels = Literal["rgb", "bgr", "grayscale"]
CROP_MODES: dict[str, Resize] = {"center": "shortest", "squash": "squash", "border": "box"}  # timm's
CHANNELS: dict[int, Channels] = {1: "grayscale", 3: "rgb"}
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
RESAMPLE: dict[Any, Interpolation] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers
PROCESSOR = re.compile(r"(\w+?)(ImageProcessor|FeatureExtractor)(Fast|Pil)?$")
# transformers' image processors that classify, by what a size without names means: the shortest side, or a square.
SHORTEST = ("Bit", "CLIP", "ConvNext", "Levit", "MobileNetV1", "MobileNetV2", "MobileViT", "PoolFormer")
SQUARE = ("Beit", "DeiT", "EfficientNet", "Siglip", "ViT")
WARPED = 384  # pixels, from which on ConvNext crops nothing


class Preprocess(Values):
    """How image files become what a model reads; timm, torchvision and transformers agree within 1 grey level.

    Attributes:
        size: side of the square that the model reads, or height and width.
        resize: ``shortest`` keeps the proportions and cuts what is outside of the centre, ``box`` keeps them and fills
            what is left over with the mean, ``squash`` does not keep them.
        resize_to: what images are resized to before the centre is cut out; None is ``size`` divided by ``crop_pct``.
        crop_pct: share of the resized side that is kept, 0 to 1.
        interpolation: how pixels are averaged.
        center: where an odd margin is cut: ``even`` as torchvision does, ``down`` as transformers does.
        channels: their order and number.
        rescale: what levels from 0 to 255 are multiplied by.
        mean: what is subtracted of each channel then; None takes those of the train role, or of given weights.
        std: what each channel is divided by.
    """

    size: Sides
    resize: Resize = "shortest"
    resize_to: Sides | None = None
    crop_pct: Annotated[float, Field(gt=0, le=1)] = 1.0
    interpolation: Interpolation = "bicubic"
    center: Literal["even", "down"] = "even"
    channels: Channels = "rgb"
    rescale: Annotated[FiniteFloat, Field(gt=0)] = 1 / 255
    mean: tuple[FiniteFloat, ...] | None = None
    std: tuple[Annotated[FiniteFloat, Field(gt=0)], ...] | None = None

    def model_post_init(self, _context: object) -> None:
        """Refuse numbers that do not fit each other."""
        count = 1 if self.channels == "grayscale" else 3
        if (self.mean is None) != (self.std is None):
            raise ValueError("expected both of mean and std, or neither")
        if any(side is not None and len(side) not in (1, count) for side in (self.mean, self.std)):
            raise ValueError(f"expected one mean and std, or {count} for {self.channels}")
        if self.resize_to is not None and self.crop_pct != 1:
            raise ValueError("expected either resize_to or crop_pct")

    @classmethod
    def read(cls, path: Path) -> "Preprocess":
        """Return what timm's ``config.json`` or transformers' ``preprocessor_config.json`` says.

        Raises:
            DataError: when the file is missing, damaged or neither, or says what nothing here does.
        """
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError("the preprocessing cannot be read", got=error, where=path) from error
        told = found if isinstance(found, dict) else {}
        try:
            if "pretrained_cfg" in told or "input_size" in told:
                return _of_timm(told.get("pretrained_cfg", told))
            return _of_transformers(told)
        except (KeyError, TypeError, ValueError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise DataError(
                "the file says no preprocessing that is known",
                expected="pretrained_cfg as timm writes it, or preprocessor_config.json of an image classifier",
                got=reason,
                where=path,
                hint="write it into the recipe: data.preprocess: {size: 224, crop_pct: 0.875, mean: [...], std: [...]}",
            ) from error

    @property
    def steps(self) -> Steps:
        """What is done to the pixels."""
        size = _sides(self.size)
        height, width = (math.floor(side / self.crop_pct) for side in size)
        single = 1 if self.channels == "grayscale" else 3
        mean = (*self.scaled[0],) if self.resize == "box" and self.scaled is not None else (0.0,)
        return Steps(
            size=size,
            channels=self.channels,
            resize=self.resize,
            resize_to=(height, width) if self.resize_to is None else _sides(self.resize_to),
            interpolation=self.interpolation,
            center=self.center,
            fill=tuple(min(255, max(0, round(255 * value))) for value in mean * (single // len(mean))),
        )

    @property
    def scaled(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Mean and deviation of levels from 0 to 1; None where none is stated."""
        if self.mean is None or self.std is None:
            return None
        unit = 255 * self.rescale
        mean, std = (tuple(round(value / unit, 9) for value in side) for side in (self.mean, self.std))
        return mean, std

    @property
    def words(self) -> str:
        """What is done to the pixels, in words."""
        steps = self.steps
        to, size = (" x ".join(map(str, sides)) for sides in (steps.resize_to or steps.size, steps.size))
        done = {"shortest": "covers", "box": "fits into", "squash": "is squashed to"}[self.resize]
        cut = "" if steps.resize_to == steps.size and self.resize == "squash" else f", its centre {size}"
        return f"x {done} {to} ({self.interpolation}){cut}, {self.channels}"


def squash(size: tuple[int, int], *, channels: Literal["rgb", "grayscale"]) -> Steps:
    """Return what is done where nothing is said: images are resized without keeping their proportions."""
    return Steps(size=size, channels=channels)


def choose_steps(
    size: Sides | None, mode: Literal["rgb", "grayscale"], preprocess: Preprocess | None, *, source: str
) -> Steps:
    """Return what is done to image files: what ``data.preprocess`` says, or squashed to a source's own size.

    Raises:
        DataError: when both or neither say what images become.
    """
    if (size is None) == (preprocess is None):
        raise DataError(
            "nothing says what size images become" if preprocess is None else "the size of images is said twice",
            expected=f"data.source.{source}.size or data.preprocess: numbers, a file or published weights by name",
            got="neither" if preprocess is None else "both",
            where="data.source",
        )
    if preprocess is not None:
        return preprocess.steps
    assert size is not None
    return squash((size, size) if isinstance(size, int) else size, channels=mode)


def _sides(given: int | tuple[int, int]) -> tuple[int, int]:
    return (given, given) if isinstance(given, int) else given


def _of_timm(told: Mapping[str, Any]) -> Preprocess:
    """Return what timm.data.resolve_data_config makes of a configuration, with timm's defaults."""
    channels, height, width = told["input_size"]
    return Preprocess(
        size=(height, width),
        resize=CROP_MODES[told.get("crop_mode") or "center"],
        crop_pct=told.get("crop_pct") or 0.875,
        interpolation=told.get("interpolation") or "bicubic",
        channels=CHANNELS[channels],
        mean=tuple(told.get("mean") or IMAGENET["mean"]),
        std=tuple(told.get("std") or IMAGENET["std"]),
    )


def _of_transformers(told: Mapping[str, Any]) -> Preprocess:
    """Return what an image processor of transformers that classifies is told to do."""
    named = told.get("image_processor_type") or told["feature_extractor_type"]
    match = PROCESSOR.match(named)
    kind = match[1] if match else named
    if kind not in (*SHORTEST, *SQUARE):
        raise ValueError(f"{named}; known are {', '.join(sorted((*SHORTEST, *SQUARE)))}")
    if not told.get("do_resize", True):
        raise ValueError("do_resize: false, which leaves images of different sizes")
    if told.get("rescale_offset"):
        raise ValueError("rescale_offset")
    mean, std = ((0.0,), (1.0,))
    if kind != "MobileViT" and told.get("do_normalize", True):  # which never normalises
        mean, std = (tuple(map(float, np.atleast_1d(told[name]))) for name in ("image_mean", "image_std"))
    if kind == "EfficientNet" and told.get("include_top", True):  # divides once more
        own = tuple(map(float, np.atleast_1d(told["image_std"])))
        std = tuple(first * second for first, second in zip(std * (len(own) // len(std)), own, strict=True))
    return Preprocess(
        **_geometry(kind, told),
        interpolation=RESAMPLE[told["resample"]],
        center="down",
        channels="bgr" if told.get("do_flip_channel_order", kind == "MobileViT") else "rgb",
        rescale=told.get("rescale_factor", 1 / 255) if told.get("do_rescale", True) else 1.0,
        mean=mean,
        std=std,
    )


def _geometry(kind: str, told: Mapping[str, Any]) -> dict[str, Any]:
    """Return size, resize and resize_to."""
    shortest, box = _named(told["size"], shortest=kind in SHORTEST)
    crop = None
    if kind not in ("ConvNext",) and told.get("do_center_crop", kind in (*SHORTEST, "DeiT")):
        crop = _named(told["crop_size"], shortest=False)[1]
    if shortest is not None and kind == "ConvNext":
        to = shortest if shortest >= WARPED else int(shortest / told.get("crop_pct", 224 / 256))
        resize = "squash" if shortest >= WARPED else "shortest"
        return {"size": shortest, "resize": resize, "resize_to": to}
    if shortest is not None and kind == "Levit":
        shortest = int(256 / 224 * shortest)
    if kind == "PoolFormer" and told.get("crop_pct") is not None:
        side = shortest if shortest is not None else box[0] if box is not None and box[0] == box[1] else None
        if side is None:
            raise ValueError(f"size {told['size']} with crop_pct")
        shortest = int(side / told["crop_pct"])
    if shortest is None:
        return {"size": crop or box, "resize": "squash", "resize_to": box}
    if crop is None:
        raise ValueError("the shortest side is resized and nothing cut, which leaves images of different sizes")
    return {"size": crop, "resize": "shortest", "resize_to": shortest}


def _named(size: Any, *, shortest: bool) -> tuple[int | None, tuple[int, int] | None]:
    """Return the shortest side, or height and width, of a size as transformers writes it."""
    if isinstance(size, int):
        return (size, None) if shortest else (None, (size, size))
    if isinstance(size, list):
        return None, (size[0], size[1])
    if set(size) - {"shortest_edge", "height", "width"}:
        raise ValueError(f"size {size}")
    return (size["shortest_edge"], None) if "shortest_edge" in size else (None, (size["height"], size["width"]))


class Published(Values):
    """How a library reads image files for weights that it publishes, by their name.

    Attributes:
        timm: name of a model, with or without the tag of its weights, such as ``resnet50.a1_in1k``.
        torchvision: name of weights, such as ``ResNet50_Weights.IMAGENET1K_V2``, or of a model, whose best ones are
            meant.
    """

    timm: str | None = None
    torchvision: str | None = None

    def model_post_init(self, _context: object) -> None:
        """Refuse both and neither."""
        if (self.timm is None) == (self.torchvision is None):
            raise ValueError("expected one of timm and torchvision, by the name of a model or its weights")

    @property
    def library(self) -> str:
        """The one that publishes them."""
        return "torchvision" if self.timm is None else "timm"

    def read(self) -> Preprocess:
        """Return what the library says of these weights.

        Raises:
            EnvironmentFault: when the library is not installed or does not import.
            DataError: when it has no such weights, or reads files for them as nothing here does.
        """
        try:
            return _named_timm(self.timm) if self.timm is not None else _named_torchvision(self.torchvision or "")
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise DataError(
                "no preprocessing is known by this name",
                expected="a model of timm.list_pretrained(), or weights of a classifier of torchvision",
                got=error,
                where=f"data.preprocess: {self.timm or self.torchvision}",
                hint="write it into the recipe: data.preprocess: {size: 224, crop_pct: 0.875, mean: [...], std: [...]}",
            ) from error


def _named_timm(name: str) -> Preprocess:
    found = import_extra("timm", extra="timm").get_pretrained_cfg(name)
    if found is None:
        raise ValueError(f"timm has no {name}")
    return _of_timm(found.to_dict())


def _named_torchvision(name: str) -> Preprocess:
    models = import_extra("torchvision.models", extra="vision")
    told = (models.get_weight(name) if "." in name else models.get_model_weights(name).DEFAULT).transforms()
    (size,), (to,) = told.crop_size, told.resize_size
    return Preprocess(
        size=size,
        resize_to=to,
        interpolation=told.interpolation.value,
        mean=tuple(told.mean),
        std=tuple(told.std),
    )


def _form(value: object) -> str:
    if isinstance(value, str | Path):
        return "file"
    named = set(value) if isinstance(value, dict) else set[str]()
    return "published" if isinstance(value, Published) or named & set(Published.model_fields) else "values"


AnyPreprocess = Annotated[
    Annotated[Path, Tag("file")] | Annotated[Published, Tag("published")] | Annotated[Preprocess, Tag("values")],
    Discriminator(_form),
]
