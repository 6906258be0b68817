from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from compress.tasks.signature import Signature, Tensor


class Net(nn.Module):
    """Residual, shared activation, depthwise, squeeze-excite and a functional mean: what names have to survive."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.conv = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.act = nn.Hardswish()
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.Sigmoid())
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = self.act(self.norm(self.conv(x)))
        y = self.act(y * self.squeeze(y) + x)
        return self.head(y.mean((2, 3)))


@pytest.fixture(scope="session")
def signature() -> Signature:
    return Signature(
        inputs=(Tensor(name="image", dtype="float32", shape=("batch", 1, 8, 8)),),
        outputs=(Tensor(name="logits", dtype="float32", shape=("batch", 5)),),
    )


@pytest.fixture(scope="session")
def make_net() -> Callable[[], Net]:
    def make() -> Net:
        torch.manual_seed(0)
        model = Net()
        model(torch.randn(16, 1, 8, 8))  # running statistics other than 0 and 1
        return model

    return make


@pytest.fixture
def net(make_net) -> Net:
    return make_net()


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((33, 1, 8, 8)).astype(np.float32)
