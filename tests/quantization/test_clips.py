"""Clips that a zero point cannot do: the pair goes before them, and the layers around them stay in int8."""

import numpy as np
import pytest
import torch
from torch import nn

from compress.export.session import Session
from compress.quantization.calibration import minmax, percentile
from compress.quantization.kernels import check_kernels, inspect_kernels
from compress.quantization.writer import plan_without_training, write_quantized


class Clamp(nn.Module):
    def __init__(self, low: float | None, high: float | None) -> None:
        super().__init__()
        self._low, self._high = low, high

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.clamp(self._low, self._high)


class Signed(nn.Module):
    """What a ReLU gives beside signed values, in one concatenation; `deep` pools the first."""

    def __init__(self, *, deep: bool) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self._deep = deep

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = torch.relu(self.left(x)), self.right(x)
        if self._deep:
            left, right = nn.functional.max_pool2d(left, 2), nn.functional.max_pool2d(right, 2)
        return torch.cat([left, right], 1)


class ClippedSum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(16, 32, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.left(x) + self.right(x)).clamp(-0.5, 0.5)


def around(*middle: nn.Module, width: int = 16) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        *middle,
        nn.Conv2d(width, 32, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


BETWEEN = {
    "hardtanh": lambda: around(nn.Hardtanh()),
    "from above 0": lambda: around(Clamp(0.5, 3.0)),
    "no lower bound": lambda: around(Clamp(None, 0.3)),
    "no upper bound": lambda: around(Clamp(-0.2, None)),
    "from 0": lambda: around(Clamp(0.0, 0.4)),
    "beside signed values": lambda: around(nn.ReLU(), Signed(deep=False), width=32),
    "beside signed values, pooled": lambda: around(nn.ReLU(), Signed(deep=True), width=32),
    "sum": lambda: around(nn.ReLU(), ClippedSum(), width=32),
}


@pytest.mark.parametrize("name", BETWEEN)
@pytest.mark.parametrize("find", [minmax, percentile], ids=["minmax", "percentile"])
def test_layers_around_a_clip_run_in_int8_and_agree_with_float(export, images, name, find):
    torch.manual_seed(0)
    model = export(BETWEEN[name]())
    plan = plan_without_training(model, lambda: [(images[:256],)], mode="static", find=find)
    quantized = write_quantized(model, plan)
    check_kernels(inspect_kernels(model, quantized, plan), min_int8_macs_fraction=1.0)
    reference = Session(model)(images[300:400])[0]
    for optimize in (True, False):
        int8 = Session(quantized, optimize=optimize)(images[300:400])[0]
        assert np.abs(int8 - reference).mean() < 0.05 * reference.std()


def test_a_relu_beside_signed_values_keeps_its_zero_point(export, images):
    torch.manual_seed(0)
    model = export(around(nn.ReLU(), Signed(deep=False), width=32))
    plan = plan_without_training(model, lambda: [(images[:64],)], mode="static", find=minmax)
    lows = {entry.at.path: entry.low for entry in plan.activations}
    relus = [node.output[0] for node in model.graph.node if node.op_type == "Relu"]
    (concatenated,) = [node.output[0] for node in model.graph.node if node.op_type == "Concat"]
    assert all(lows[name] == 0 for name in relus)
    assert lows[concatenated] < 0
