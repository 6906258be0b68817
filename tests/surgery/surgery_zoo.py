"""Small networks, one for each way in which channels are coupled, with normalisation that is not the identity."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.surgery.find import find
from compress.surgery.groups import Group


def conv(inputs: int, outputs: int, size: int = 3, *, groups: int = 1, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def head(inputs: int, *, classes: int = 5) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


class Residual(nn.Module):
    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


class Concatenate(nn.Module):
    def __init__(self, *branches: nn.Module, keep_input: bool = False) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.keep_input = keep_input

    def forward(self, x: Tensor) -> Tensor:
        parts = [branch(x) for branch in self.branches]
        return torch.cat([x, *parts] if self.keep_input else parts, dim=1)


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.expand(F.relu(self.reduce(F.adaptive_avg_pool2d(x, 1))))
        return x * F.hardsigmoid(scale)


class Gated(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        value, gate = x.chunk(2, dim=1)
        return value * torch.sigmoid(gate)


class Scaled(nn.Module):
    """A bare parameter per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Lambda(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def plain() -> nn.Module:
    return nn.Sequential(conv(3, 16), nn.MaxPool2d(2), conv(16, 24), conv(24, 32), head(32))


def flattened() -> nn.Module:
    layers = [conv(3, 16), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(16 * 16, 24), nn.PReLU(24), nn.Linear(24, 5)]
    return nn.Sequential(*layers)


def perceptron() -> nn.Module:
    hidden = [nn.Linear(32, 24), nn.BatchNorm1d(24), nn.Sigmoid(), nn.Linear(24, 16), nn.Softplus()]
    return nn.Sequential(nn.Flatten(), nn.Linear(768, 32), nn.ReLU(), *hidden, nn.Linear(16, 5))


def resnet_basic() -> nn.Module:
    def body(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
        return nn.Sequential(conv(inputs, outputs, stride=stride), conv(outputs, outputs)[:2])

    wider = Residual(body(16, 32, 2), conv(16, 32, 1, stride=2)[:2])
    return nn.Sequential(conv(3, 16), Residual(body(16, 16)), wider, Residual(body(32, 32)), head(32))


def resnet_bottleneck(*, groups: int = 1) -> nn.Module:
    def body(outputs: int, inner: int) -> nn.Module:
        return nn.Sequential(conv(outputs, inner, 1), conv(inner, inner, groups=groups), conv(inner, outputs, 1)[:2])

    return nn.Sequential(conv(3, 32), Residual(body(32, 16)), Residual(body(32, 24)), head(32))


def resnext() -> nn.Module:
    return resnet_bottleneck(groups=4)


def mobilenet() -> nn.Module:
    def block(channels: int, expanded: int) -> nn.Module:
        depthwise = conv(expanded, expanded, groups=expanded)
        return nn.Sequential(
            conv(channels, expanded, 1), depthwise, SqueezeExcite(expanded, 8), conv(expanded, channels, 1)[:2]
        )

    return nn.Sequential(conv(3, 16), Residual(block(16, 32)), Residual(block(16, 48)), head(16))


def densenet() -> nn.Module:
    first = Concatenate(conv(16, 8), keep_input=True)
    second = Concatenate(nn.Sequential(nn.BatchNorm2d(24), nn.ReLU(), conv(24, 8)), keep_input=True)
    return nn.Sequential(conv(3, 16), first, second, conv(32, 16, 1), head(16))


def inception() -> nn.Module:
    branches = (
        conv(16, 8, 1),
        nn.Sequential(conv(16, 12, 1), conv(12, 16)),
        nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(16, 8, 1)),
    )
    return nn.Sequential(conv(3, 16), Concatenate(*branches), conv(32, 24, 1), head(24))


def group_norm() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.GroupNorm(4, 16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.PReLU(16), head(16)
    )


def transposed() -> nn.Module:
    decoder = [nn.ConvTranspose2d(16, 12, 2, stride=2), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 2, 1)]
    return nn.Sequential(conv(3, 16, stride=2), *decoder)


def gated() -> nn.Module:
    return nn.Sequential(conv(3, 32)[:2], Gated(), conv(16, 16), head(16))


def sequence() -> nn.Module:
    return nn.Sequential(nn.Flatten(2), nn.Linear(256, 24), nn.GELU(), nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, 5))


def one_dimensional() -> nn.Module:
    layers = [
        nn.Conv1d(3, 16, 3, padding=1),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Conv1d(16, 8, 1),
        nn.AdaptiveAvgPool1d(4),
    ]
    return nn.Sequential(nn.Flatten(2), *layers, nn.Flatten(), nn.Linear(32, 5))


MODELS: dict[str, Callable[[], nn.Module]] = {
    function.__name__: function
    for function in (
        plain,
        flattened,
        perceptron,
        resnet_basic,
        resnet_bottleneck,
        resnext,
        mobilenet,
        densenet,
        inception,
        group_norm,
        transposed,
        gated,
        sequence,
        one_dimensional,
    )
}


def build(name: str, *, seed: int = 0) -> nn.Module:
    """The named network in eval mode, with running statistics and affine parameters that are not the identity."""
    torch.manual_seed(seed)
    return randomise(MODELS[name]()).eval()


def randomise(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.GroupNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 1.5)
    return model


def find_groups(model: nn.Module, inputs: tuple[Tensor, ...], **settings) -> tuple[Group, ...]:
    """What can be cut, where nothing has to stay."""
    found = find(model, inputs, **settings)
    assert not found.left
    return found.groups


def images(batch: int = 2, *, size: int = 16, seed: int = 1) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))
