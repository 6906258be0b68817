"""One small network per structure that placement has to get right, and one that is trained on real digits."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from compress.export.graph import to_onnx
from compress.tasks.signature import Signature, Tensor


def conv(width_in: int, width: int, kernel: int = 3, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width_in, width, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(width)
    )


class Residual(nn.Module):
    """ResNet block with a projection, functional Relu and addition."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = conv(width_in, width, stride=stride), conv(width, width)
        self.project = conv(width_in, width, 1, stride=stride) if stride > 1 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.second(F.relu(self.first(x))) + self.project(x))


class SqueezeExcite(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.pool, self.act, self.gate = nn.AdaptiveAvgPool2d(1), nn.SiLU(), nn.Hardsigmoid()
        self.down, self.up = nn.Conv2d(width, 4, 1), nn.Conv2d(4, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gate(self.up(self.act(self.down(self.pool(x)))))


class Concat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = conv(16, 8, 1), conv(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([F.relu(self.left(x)), F.relu(self.right(x))], 1)


def head(width: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


ZOO: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: nn.Sequential(
        conv(1, 16), nn.ReLU(), nn.MaxPool2d(2), conv(16, 32), nn.ReLU6(), conv(32, 32), nn.ReLU(), head(32)
    ),
    "resnet": lambda: nn.Sequential(conv(1, 16), nn.ReLU(), Residual(16, 16, 1), Residual(16, 32, 2), head(32)),
    "squeeze_excite": lambda: nn.Sequential(
        conv(1, 16),
        nn.Hardswish(),
        conv(16, 16, groups=16),
        nn.Hardswish(),
        SqueezeExcite(16),
        conv(16, 64, 1),
        head(64),
    ),
    "gated": lambda: nn.Sequential(conv(1, 16), nn.ReLU(), SqueezeExcite(16), conv(16, 64), nn.ReLU(), head(64)),
    "grouped": lambda: nn.Sequential(conv(1, 16), nn.ReLU(), conv(16, 32, groups=4), nn.ReLU(), head(32)),
    "concat": lambda: nn.Sequential(
        conv(1, 16), nn.ReLU(), Concat(), nn.MaxPool2d(2), conv(24, 16), nn.ReLU(), head(16)
    ),
    "mlp": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 10)
    ),
    "sigmoid": lambda: nn.Sequential(conv(1, 16), nn.SiLU(), conv(16, 16), nn.Sigmoid(), conv(16, 16), head(16)),
}

SIGNATURE = Signature(
    inputs=(Tensor(name="image", dtype="float32", shape=("batch", 1, 8, 8)),),
    outputs=(Tensor(name="logits", dtype="float32", shape=("batch", 10)),),
)


def digits() -> tuple[np.ndarray, np.ndarray]:
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    images = (data.images[order, None] / 8 - 1).astype(np.float32)
    return images, data.target[order]


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    return digits()[0]


@pytest.fixture(scope="session")
def labels() -> np.ndarray:
    return digits()[1]


@pytest.fixture(scope="session")
def export() -> Callable[[nn.Module], onnx.ModelProto]:
    return lambda model: to_onnx(model, SIGNATURE, (torch.zeros(2, 1, 8, 8),))


@pytest.fixture(scope="session")
def networks() -> dict[str, Callable[[], nn.Module]]:
    """What builds each of the networks, by the name that its graph has in `zoo`."""
    return ZOO


@pytest.fixture(scope="session")
def zoo(images, export) -> dict[str, onnx.ModelProto]:
    """Float graphs with running statistics of real images."""
    graphs = {}
    for name, build in ZOO.items():
        torch.manual_seed(0)
        model = build()
        for _ in range(20):
            model(torch.from_numpy(images[:64]))
        graphs[name] = export(model)
    return graphs


@pytest.fixture(scope="session")
def trained(images, labels) -> nn.Module:
    """A residual network after two epochs on the first 1,200 digits; the other 597 are for judging."""
    torch.manual_seed(0)
    model = ZOO["resnet"]()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    x, y = torch.from_numpy(images[:1200]), torch.from_numpy(labels[:1200])
    for _ in range(3):
        for rows in torch.randperm(1200).split(50):
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    return model.eval()
