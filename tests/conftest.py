"""Shared fixtures: a tiny real task on scikit-learn's digits, and contexts to run stages in."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

sys.path.insert(0, str(Path(__file__).parent))  # where the zoos and the setting are

from setting import Setting  # noqa: E402

from compress.data import Data, Samples
from compress.loss import GuidedLoss
from compress.models import Cnn
from compress.progress import Reporter
from compress.stage import Execution
from compress.stages.create import Create
from compress.stages.train import Train
from compress.store.artifact import Artifact
from compress.store.store import Store
from compress.tasks import Augment, ImageClassification
from compress.tasks.signature import Signature, Tensor

torch.set_num_threads(1)


class Recorded:
    """A recorder that keeps what it is given."""

    def __init__(self) -> None:
        self.points: list[tuple[int, dict[str, float]]] = []
        self.files: list[Path] = []

    def metrics(self, values, *, step):
        self.points.append((step, dict(values)))

    def artifact(self, path, folder=""):
        self.files.append(path)


@pytest.fixture(scope="session")
def digits() -> Data:
    """scikit-learn's digits, 8x8 uint8, in fixed roles."""
    raw = load_digits()
    samples = Samples((raw.images * 15).astype(np.uint8)[:, None], raw.target.astype(np.int64))
    order = np.random.default_rng(0).permutation(len(samples))
    bounds = {"train": (0, 1000), "calibration": (1000, 1200), "select": (1200, 1500), "test": (1500, 1797)}
    roles = {role: samples.take(order[low:high]) for role, (low, high) in bounds.items()}
    return Data(roles=roles, classes=tuple("0123456789"))  # pyright: ignore[reportArgumentType]


@pytest.fixture
def make_context(digits: Data, tmp_path: Path) -> Callable[..., Setting]:
    """Return a function that makes a context; its arguments replace fields."""

    def make(*, data: Data = digits, augment: Augment | None = None, **fields) -> Setting:
        context = Setting(
            task=ImageClassification.of(data, augment=augment),
            data=data,
            loss=GuidedLoss(preset="hinton"),
            teacher=None,
            store=Store.open(tmp_path / "store"),
            seed=0,
            execution=Execution(threads=1, precision="float32"),
            recorder=Recorded(),
            reporter=Reporter(quiet=True),
        )
        return replace(context, **fields)

    return make


@pytest.fixture(scope="session")
def trained_digits(digits: Data, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A small plain network trained on digits to well above 90%; read-only."""
    context = Setting(
        task=ImageClassification.of(digits, augment=None),
        data=digits,
        loss=GuidedLoss(preset="hinton"),
        teacher=None,
        store=Store.open(tmp_path_factory.mktemp("trained")),
        seed=0,
        execution=Execution(threads=1, precision="float32"),
        recorder=Recorded(),
        reporter=Reporter(quiet=True),
    )
    created = Create(model=Cnn(widths=(16, 32, 32), strides=(1, 2, 1))).run(None, *context)
    return Train(epochs=8, batch_size=64).run(created, *context)


class Encoder(torch.nn.Module):
    """A Hugging Face text encoder as the exporter sees it: two tensors in, logits out."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits


class ImageEncoder(torch.nn.Module):
    """A Hugging Face image classifier as the exporter sees it: images in, logits out."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values=image).logits


def _image_encoder(family: str) -> ImageEncoder:
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=16, patch_size=4,
        num_labels=3, initializer_range=0.2,
    )  # fmt: skip
    return ImageEncoder(getattr(transformers, f"{family}ForImageClassification")(config)).eval()


def _encoder(family: str, attention: str) -> Encoder:
    """Two layers of width 32; the second has one head of the two, and a wider feed-forward layer, as after pruning."""
    import transformers

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    if family == "DistilBert":
        sizes = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}
    if family == "DebertaV2":
        sizes |= {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8}
        sizes |= {"position_biased_input": False, "norm_rel_ebd": "layer_norm", "share_att_key": True}
    if family == "Albert":
        sizes |= {"embedding_size": 16}
    if family == "ModernBert":
        sizes |= {"local_attention": 4, "pad_token_id": 1}
    config = getattr(transformers, f"{family}Config")(
        **sizes, vocab_size=300, max_position_embeddings=48, num_labels=3, attn_implementation=attention
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForSequenceClassification")(config)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:  # larger than the initial 0.02, so that attention is not the mean
            torch.nn.init.normal_(parameter, std=0.3)
        elif name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    if family == "Bert":
        layer = model.bert.encoder.layer[1]
        layer.attention.self.query = torch.nn.Linear(32, 16)
        layer.attention.self.key = torch.nn.Linear(32, 16)
        layer.attention.self.value = torch.nn.Linear(32, 16)
        layer.attention.output.dense = torch.nn.Linear(16, 32)
        # Which of these is read depends on the version of transformers.
        layer.attention.self.num_attention_heads, layer.attention.self.all_head_size = 1, 16
        layer.intermediate.dense, layer.output.dense = torch.nn.Linear(32, 96), torch.nn.Linear(96, 32)
    return Encoder(model).eval()


def _tokens(rows: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Token numbers and mask; every row but the first is padded, each to another length."""
    generator = np.random.default_rng(rows * 100 + length)
    mask = (np.arange(length) < np.maximum(1, length - np.arange(rows))[:, None]).astype(np.int64)
    ids = generator.integers(5, 300, (rows, length)) * mask + (1 - mask)  # 1 is RoBERTa's padding
    return ids, mask


@pytest.fixture(scope="session")
def text_signature() -> Signature:
    """Text in, three classes out."""
    shape = ("batch", "length")
    return Signature(
        inputs=tuple(Tensor(name=name, dtype="int64", shape=shape) for name in ("input_ids", "attention_mask")),
        outputs=(Tensor(name="logits", dtype="float32", shape=("batch", 3)),),
    )


@pytest.fixture(scope="session")
def make_encoder() -> Callable[[str, str], Encoder]:
    """Return a function from family (`Bert`, ...) and attention (`eager` or `sdpa`) to a tiny encoder."""
    return _encoder


@pytest.fixture(scope="session")
def image_signature() -> Signature:
    """Images of 16 by 16 pixels in, three classes out."""
    return Signature(
        inputs=(Tensor(name="image", dtype="float32", shape=("batch", 3, 16, 16)),),
        outputs=(Tensor(name="logits", dtype="float32", shape=("batch", 3)),),
    )


@pytest.fixture(scope="session")
def make_image_encoder() -> Callable[[str], ImageEncoder]:
    """Return a function from family (`ViT`, `DeiT`) to a tiny classifier of images."""
    return _image_encoder


@pytest.fixture(scope="session")
def tokens() -> Callable[[int, int], tuple[np.ndarray, np.ndarray]]:
    """Return a function from rows and length to token numbers and a mask with padded rows."""
    return _tokens
