"""Image classifiers as their users write them: tutorials, and the families of torchvision and timm at tiny widths."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

CLASSES = 5


class LeNetTutorial(nn.Module):
    """The CIFAR tutorial: view with a number written out."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 12, 3)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(12, 16, 3)
        self.fc1 = nn.Linear(16 * 2 * 2, 40)
        self.fc2 = nn.Linear(40, 24)
        self.fc3 = nn.Linear(24, CLASSES)

    def forward(self, x):
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        x = x.view(-1, 16 * 2 * 2)
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return self.fc3(x)


class FlattenTutorial(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 24, 3, padding=1)
        self.dropout1 = nn.Dropout2d(0.25)
        self.dropout2 = nn.Dropout(0.5)
        self.fc1 = nn.Linear(24 * 8 * 8, 32)
        self.fc2 = nn.Linear(32, CLASSES)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        x = F.relu(self.conv2(x))
        x = self.dropout1(F.max_pool2d(x, 2))
        x = torch.flatten(x, 1)
        x = self.dropout2(F.relu(self.fc1(x)))
        return self.fc2(x)


class ViewBySize(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 16, 5, stride=2, padding=2), nn.ReLU(inplace=True), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU6()
        )
        self.classifier = nn.Sequential(nn.Dropout(), nn.Linear(32 * 4 * 4, 48), nn.ReLU(True), nn.Linear(48, CLASSES))

    def forward(self, x):
        x = F.avg_pool2d(self.features(x), 2)
        x = x.view(x.size(0), -1)
        return self.classifier(x)


def all_convolutional():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 24, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(24, CLASSES, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def vgg():
    layers, inputs = [], 3
    for width in (16, 16, "M", 24, 24, "M", 32, "M"):
        if width == "M":
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            inputs = width
    features, pool = nn.Sequential(*layers), nn.AdaptiveAvgPool2d((2, 2))
    head = [nn.Linear(32 * 4, 48), nn.ReLU(True), nn.Dropout(), nn.Linear(48, 48), nn.ReLU(True), nn.Dropout()]
    return nn.Sequential(features, pool, nn.Flatten(), *head, nn.Linear(48, CLASSES))


def alexnet():
    return nn.Sequential(
        nn.Conv2d(3, 16, 5, stride=2, padding=2),
        nn.ReLU(inplace=True),
        nn.LocalResponseNorm(3),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(16, 32, 3, padding=1, groups=2),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 32),
        nn.ReLU(),
        nn.Linear(32, CLASSES),
    )


class BasicBlock(nn.Module):
    def __init__(self, inplanes, planes, stride=1, norm=nn.BatchNorm2d, act=nn.ReLU):
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride, 1, bias=False)
        self.bn1 = norm(planes)
        self.relu = act()
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = norm(planes)
        self.downsample = None
        if stride != 1 or inplanes != planes:
            self.downsample = nn.Sequential(nn.Conv2d(inplanes, planes, 1, stride, bias=False), norm(planes))

    def forward(self, x):
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


class Bottleneck(nn.Module):
    def __init__(self, inplanes, planes, stride=1, groups=1, width=16, attention: Callable | None = None):
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, planes, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes)
        self.attention = attention(planes) if attention else nn.Identity()
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or inplanes != planes:
            self.downsample = nn.Sequential(nn.Conv2d(inplanes, planes, 1, stride, bias=False), nn.BatchNorm2d(planes))

    def forward(self, x):
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.attention(self.bn3(self.conv3(out)))
        if self.downsample is not None:
            identity = self.downsample(x)
        return self.relu(out + identity)


class ResNet(nn.Module):
    def __init__(self, *blocks: nn.Module, stem: int = 16, outputs: int = 32):
        super().__init__()
        self.conv1 = nn.Conv2d(3, stem, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(*blocks)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(outputs, CLASSES)

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.avgpool(self.layer1(x))
        x = torch.flatten(x, 1)
        return self.fc(x)


def resnet18():
    return ResNet(BasicBlock(16, 16), BasicBlock(16, 32, 2), BasicBlock(32, 32))


def resnet50():
    return ResNet(Bottleneck(16, 32), Bottleneck(32, 32), Bottleneck(32, 32, 2))


def resnext():
    return ResNet(Bottleneck(16, 32, groups=4, width=32), Bottleneck(32, 32, groups=4, width=32))


def wide_resnet():
    return ResNet(Bottleneck(16, 32, width=48), Bottleneck(32, 32, 2, width=48))


class Squeeze(nn.Module):
    """timm's and the papers' SE, with a Linear pair and a view."""

    def __init__(self, channels, reduction=4):
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(
            nn.Linear(channels, channels // reduction, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(channels // reduction, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x):
        b, c, _, _ = x.size()
        y = self.avg_pool(x).view(b, c)
        y = self.fc(y).view(b, c, 1, 1)
        return x * y.expand_as(x)


def se_resnet():
    return ResNet(Bottleneck(16, 32, attention=Squeeze), Bottleneck(32, 32, attention=Squeeze))


class Cbam(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Conv2d(channels, channels // 4, 1), nn.ReLU(), nn.Conv2d(channels // 4, channels, 1)
        )
        self.spatial = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x):
        gate = self.mlp(F.adaptive_avg_pool2d(x, 1)) + self.mlp(F.adaptive_max_pool2d(x, 1))
        x = x * torch.sigmoid(gate)
        pooled = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], dim=1)
        return x * torch.sigmoid(self.spatial(pooled))


def cbam_resnet():
    return ResNet(Bottleneck(16, 32, attention=Cbam), Bottleneck(32, 32, attention=Cbam))


class Eca(nn.Module):
    """Efficient channel attention: a 1-d convolution along the channels."""

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x):
        y = F.adaptive_avg_pool2d(x, 1)
        y = self.conv(y.squeeze(-1).transpose(-1, -2)).transpose(-1, -2).unsqueeze(-1)
        return x * y.sigmoid()


def eca_resnet():
    return ResNet(Bottleneck(16, 32, attention=Eca), Bottleneck(32, 32, attention=Eca))


def preact_resnet():
    class PreAct(nn.Module):
        def __init__(self, inplanes, planes, stride=1):
            super().__init__()
            self.bn1, self.conv1 = nn.BatchNorm2d(inplanes), nn.Conv2d(inplanes, planes, 3, stride, 1, bias=False)
            self.bn2, self.conv2 = nn.BatchNorm2d(planes), nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
            if stride != 1 or inplanes != planes:
                self.shortcut = nn.Sequential(nn.Conv2d(inplanes, planes, 1, stride, bias=False))

        def forward(self, x):
            out = F.relu(self.bn1(x))
            shortcut = self.shortcut(out) if hasattr(self, "shortcut") else x
            out = self.conv2(F.relu(self.bn2(self.conv1(out))))
            return out + shortcut

    return ResNet(PreAct(16, 16), PreAct(16, 32, 2), PreAct(32, 32))


class PaddedShortcut(nn.Module):
    """CIFAR ResNet, option A: the shortcut is padded with zero channels."""

    def __init__(self, inplanes, planes):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inplanes, planes, 3, 2, 1, bias=False), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False), nn.BatchNorm2d(planes)
        self.extra = (planes - inplanes) // 2

    def forward(self, x):
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.extra, self.extra)))


def cifar_resnet_option_a():
    return ResNet(BasicBlock(16, 16), PaddedShortcut(16, 32), BasicBlock(32, 32))


def group_norm_resnet():
    def norm(width):
        return nn.GroupNorm(4, width)

    return ResNet(BasicBlock(16, 16, norm=norm), BasicBlock(16, 32, 2, norm=norm))


def one_group_resnet():
    def norm(width):
        return nn.GroupNorm(1, width)

    return ResNet(BasicBlock(16, 16, norm=norm), BasicBlock(16, 32, 2, norm=norm))


def instance_norm_resnet():
    def norm(width):
        return nn.InstanceNorm2d(width, affine=True)

    return ResNet(BasicBlock(16, 16, norm=norm), BasicBlock(16, 32, 2, norm=norm))


def plain_instance_norm():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.InstanceNorm2d(16),
        nn.LeakyReLU(0.2),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.InstanceNorm2d(32, affine=True, track_running_stats=True),
        nn.LeakyReLU(0.2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, CLASSES),
    )


def prelu_one():
    return ResNet(BasicBlock(16, 16, act=nn.PReLU), BasicBlock(16, 32, 2))


def prelu_many():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.PReLU(16),
        nn.Conv2d(16, 32, 3, 2, 1),
        nn.BatchNorm2d(32),
        nn.PReLU(32),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, CLASSES),
    )


class DenseLayer(nn.Module):
    def __init__(self, inputs, growth, bn_size=2):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, bn_size * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(bn_size * growth)
        self.conv2 = nn.Conv2d(bn_size * growth, growth, 3, padding=1, bias=False)

    def forward(self, features):
        x = torch.cat(features, 1)
        x = self.conv1(F.relu(self.norm1(x)))
        return self.conv2(F.relu(self.norm2(x)))


class DenseNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv0 = nn.Conv2d(3, 16, 3, 2, 1, bias=False)
        self.block = nn.ModuleList([DenseLayer(16 + 8 * index, 8) for index in range(3)])
        self.norm, self.transition = nn.BatchNorm2d(40), nn.Conv2d(40, 20, 1, bias=False)
        self.last = nn.BatchNorm2d(20)
        self.classifier = nn.Linear(20, CLASSES)

    def forward(self, x):
        features = [self.conv0(x)]
        for layer in self.block:
            features.append(layer(features))
        x = F.avg_pool2d(self.transition(F.relu(self.norm(torch.cat(features, 1)))), 2)
        x = F.relu(self.last(x), inplace=True)
        return self.classifier(torch.flatten(F.adaptive_avg_pool2d(x, (1, 1)), 1))


def conv_bn(inputs, outputs, kernel=3, stride=1, groups=1, act=nn.ReLU6):
    padding = (kernel - 1) // 2
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False), nn.BatchNorm2d(outputs), act()
    )


class InvertedResidual(nn.Module):
    def __init__(self, inp, oup, stride, expand, act=nn.ReLU6, attention: Callable | None = None):
        super().__init__()
        hidden = inp * expand
        self.use_res_connect = stride == 1 and inp == oup
        layers = [conv_bn(inp, hidden, 1, act=act), conv_bn(hidden, hidden, 3, stride, hidden, act=act)]
        if attention:
            layers.append(attention(hidden))
        layers += [nn.Conv2d(hidden, oup, 1, bias=False), nn.BatchNorm2d(oup)]
        self.conv = nn.Sequential(*layers)

    def forward(self, x):
        return x + self.conv(x) if self.use_res_connect else self.conv(x)


def mobilenet_v1():
    def depthwise(inputs, outputs, stride):
        return nn.Sequential(
            conv_bn(inputs, inputs, 3, stride, inputs, nn.ReLU), conv_bn(inputs, outputs, 1, act=nn.ReLU)
        )

    body = [conv_bn(3, 16, 3, 2, act=nn.ReLU), depthwise(16, 32, 1), depthwise(32, 48, 2), depthwise(48, 48, 1)]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, CLASSES))


class MobileNet(nn.Module):
    def __init__(self, *blocks, width, act=nn.ReLU6):
        super().__init__()
        self.features = nn.Sequential(conv_bn(3, 16, 3, 2, act=act), *blocks, conv_bn(width, 64, 1, act=act))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(64, CLASSES))

    def forward(self, x):
        x = self.features(x)
        x = x.mean([2, 3])
        return self.classifier(x)


def mobilenet_v2():
    blocks = InvertedResidual(16, 16, 1, 2), InvertedResidual(16, 24, 2, 3), InvertedResidual(24, 24, 1, 3)
    return MobileNet(*blocks, width=24)


class HardSqueeze(nn.Module):
    """torchvision's SqueezeExcitation."""

    def __init__(self, channels):
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1, self.fc2 = nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1)
        self.activation, self.scale_activation = nn.ReLU(), nn.Hardsigmoid()

    def forward(self, x):
        scale = self.scale_activation(self.fc2(self.activation(self.fc1(self.avgpool(x)))))
        return scale * x


def mobilenet_v3():
    first = InvertedResidual(16, 16, 1, 2, nn.Hardswish, HardSqueeze)
    return MobileNet(first, InvertedResidual(16, 24, 2, 4, nn.Hardswish, HardSqueeze), width=24, act=nn.Hardswish)


def efficientnet():
    first = InvertedResidual(16, 16, 1, 2, nn.SiLU, HardSqueeze)
    return MobileNet(first, InvertedResidual(16, 24, 2, 4, nn.SiLU, HardSqueeze), width=24, act=nn.SiLU)


def mnasnet():
    return MobileNet(InvertedResidual(16, 24, 2, 3, nn.ReLU), InvertedResidual(24, 24, 1, 3, nn.ReLU), width=24)


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    batchsize, num_channels, height, width = x.size()
    channels_per_group = num_channels // groups
    x = x.view(batchsize, groups, channels_per_group, height, width)
    x = torch.transpose(x, 1, 2).contiguous()
    return x.view(batchsize, num_channels, height, width)


class ShuffleUnit(nn.Module):
    def __init__(self, inp, oup, stride):
        super().__init__()
        self.stride, branch = stride, oup // 2
        self.branch1 = nn.Sequential()
        if stride > 1:
            self.branch1 = nn.Sequential(
                nn.Conv2d(inp, inp, 3, stride, 1, groups=inp, bias=False),
                nn.BatchNorm2d(inp),
                nn.Conv2d(inp, branch, 1, bias=False),
                nn.BatchNorm2d(branch),
                nn.ReLU(inplace=True),
            )
        self.branch2 = nn.Sequential(
            nn.Conv2d(inp if stride > 1 else branch, branch, 1, bias=False),
            nn.BatchNorm2d(branch),
            nn.ReLU(inplace=True),
            nn.Conv2d(branch, branch, 3, stride, 1, groups=branch, bias=False),
            nn.BatchNorm2d(branch),
            nn.Conv2d(branch, branch, 1, bias=False),
            nn.BatchNorm2d(branch),
            nn.ReLU(inplace=True),
        )

    def forward(self, x):
        if self.stride == 1:
            x1, x2 = x.chunk(2, dim=1)
            out = torch.cat((x1, self.branch2(x2)), dim=1)
        else:
            out = torch.cat((self.branch1(x), self.branch2(x)), dim=1)
        return channel_shuffle(out, 2)


def shufflenet_v2():
    body = [conv_bn(3, 16, 3, 2, act=nn.ReLU), ShuffleUnit(16, 48, 2), ShuffleUnit(48, 48, 1), conv_bn(48, 64, 1)]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, CLASSES))


class ShuffleV1(nn.Module):
    def __init__(self, channels, groups=2):
        super().__init__()
        self.groups = groups
        self.squeeze = conv_bn(channels, 16, 1, groups=groups, act=nn.ReLU)
        self.depthwise = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False), nn.BatchNorm2d(16))
        self.expand = nn.Sequential(nn.Conv2d(16, channels, 1, groups=groups, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x):
        out = channel_shuffle(self.squeeze(x), self.groups)
        return F.relu(x + self.expand(self.depthwise(out)))


def shufflenet_v1():
    body = [conv_bn(3, 32, 3, 2), ShuffleV1(32), ShuffleV1(32)]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, CLASSES))


def shuffle_module():
    return nn.Sequential(
        conv_bn(3, 16),
        nn.Conv2d(16, 32, 1, groups=2),
        nn.ChannelShuffle(2),
        nn.Conv2d(32, 24, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.Conv2d(24, 24, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, CLASSES),
    )


def regnet():
    class XBlock(nn.Module):
        def __init__(self, inputs, outputs, stride):
            super().__init__()
            self.proj = None
            if inputs != outputs or stride > 1:
                self.proj = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
            self.f = nn.Sequential(
                conv_bn(inputs, outputs, 1, act=nn.ReLU),
                conv_bn(outputs, outputs, 3, stride, groups=outputs // 8, act=nn.ReLU),
                HardSqueeze(outputs),
                nn.Conv2d(outputs, outputs, 1, bias=False),
                nn.BatchNorm2d(outputs),
            )

        def forward(self, x):
            return F.relu((x if self.proj is None else self.proj(x)) + self.f(x))

    body = [conv_bn(3, 16, 3, 2), XBlock(16, 32, 1), XBlock(32, 32, 1)]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, CLASSES))


class BasicConv2d(nn.Module):
    def __init__(self, inputs, outputs, **settings):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, bias=False, **settings)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)), inplace=True)


class InceptionBlock(nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.branch1 = BasicConv2d(inputs, 8, kernel_size=1)
        self.branch2 = nn.Sequential(
            BasicConv2d(inputs, 12, kernel_size=1), BasicConv2d(12, 16, kernel_size=3, padding=1)
        )
        self.branch3 = nn.Sequential(
            BasicConv2d(inputs, 8, kernel_size=1),
            BasicConv2d(8, 8, kernel_size=(1, 7), padding=(0, 3)),
            BasicConv2d(8, 8, kernel_size=(7, 1), padding=(3, 0)),
        )
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1, ceil_mode=True), BasicConv2d(inputs, 8, kernel_size=1))

    def forward(self, x):
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class GoogLeNet(nn.Module):
    """An auxiliary head that exists in training mode only."""

    def __init__(self, *, aux: bool):
        super().__init__()
        self.conv1 = BasicConv2d(3, 16, kernel_size=3, stride=2, padding=1)
        self.inception3a, self.inception3b = InceptionBlock(16), InceptionBlock(40)
        self.aux1 = None
        if aux:
            self.aux1 = nn.Sequential(
                BasicConv2d(40, 16, kernel_size=1), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, CLASSES)
            )
        self.fc = nn.Linear(40, CLASSES)

    def forward(self, x):
        x = self.inception3a(self.conv1(x))
        aux = self.aux1(x) if self.aux1 is not None and self.training else None
        x = self.inception3b(x)
        x = self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return (x, aux) if self.training and aux is not None else x


class Fire(nn.Module):
    def __init__(self, inplanes, squeeze, expand):
        super().__init__()
        self.squeeze = nn.Conv2d(inplanes, squeeze, 1)
        self.expand1x1, self.expand3x3 = nn.Conv2d(squeeze, expand, 1), nn.Conv2d(squeeze, expand, 3, padding=1)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.activation(self.squeeze(x))
        return torch.cat([self.activation(self.expand1x1(x)), self.activation(self.expand3x3(x))], 1)


def squeezenet():
    features = [nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(inplace=True), Fire(16, 8, 16), Fire(32, 8, 16)]
    classifier = [nn.Dropout(0.5), nn.Conv2d(32, CLASSES, 1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d((1, 1))]
    return nn.Sequential(nn.Sequential(*features), nn.Sequential(*classifier), nn.Flatten())


class ConvNeXtBlock(nn.Module):
    """torchvision's: a layer scale of [C, 1, 1]."""

    def __init__(self, dim, shape: tuple[int, ...] = (1, 1), scale=0.5):
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1, self.act, self.pwconv2 = nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(scale * torch.ones(dim, *shape))

    def forward(self, x):
        y = self.dwconv(x).permute(0, 2, 3, 1)
        y = self.pwconv2(self.act(self.pwconv1(self.norm(y))))
        if self.gamma.ndim == 1:
            return x + (self.gamma * y).permute(0, 3, 1, 2)
        return x + self.gamma * y.permute(0, 3, 1, 2)


class LayerNorm2d(nn.LayerNorm):
    """torchvision's and timm's: over the channels of [N, C, H, W]."""

    def forward(self, x):
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class ChannelsFirstNorm(nn.Module):
    """The ConvNeXt paper's: written out."""

    def __init__(self, channels):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.eps = 1e-6

    def forward(self, x):
        u = x.mean(1, keepdim=True)
        s = (x - u).pow(2).mean(1, keepdim=True)
        x = (x - u) / torch.sqrt(s + self.eps)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class ConvNeXt(nn.Module):
    def __init__(self, norm: Callable, **block):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 2, stride=2), norm(16))
        self.stage1 = ConvNeXtBlock(16, **block)
        self.down = nn.Sequential(norm(16), nn.Conv2d(16, 24, 2, stride=2))
        self.stage2 = ConvNeXtBlock(24, **block)
        self.norm, self.head = nn.LayerNorm(24), nn.Linear(24, CLASSES)

    def forward(self, x):
        x = self.stage2(self.down(self.stage1(self.stem(x))))
        return self.head(self.norm(x.mean([-2, -1])))


def convnext_torchvision():
    return ConvNeXt(LayerNorm2d)


def convnext_paper():
    return ConvNeXt(ChannelsFirstNorm, shape=())


def convnext_v2():
    class Grn(nn.Module):
        def __init__(self, dim):
            super().__init__()
            self.gamma, self.beta = nn.Parameter(torch.zeros(1, 1, 1, dim)), nn.Parameter(torch.zeros(1, 1, 1, dim))

        def forward(self, x):
            gx = torch.norm(x, p=2, dim=(1, 2), keepdim=True)
            nx = gx / (gx.mean(dim=-1, keepdim=True) + 1e-6)
            return self.gamma * (x * nx) + self.beta + x

    model = ConvNeXt(LayerNorm2d)
    model.stage1.act = nn.Sequential(nn.GELU(), Grn(64))
    return model


def convmixer():
    class Residual(nn.Module):
        def __init__(self, fn):
            super().__init__()
            self.fn = fn

        def forward(self, x):
            return self.fn(x) + x

    def block(dim):
        depthwise = Residual(
            nn.Sequential(nn.Conv2d(dim, dim, 5, groups=dim, padding="same"), nn.GELU(), nn.BatchNorm2d(dim))
        )
        return nn.Sequential(depthwise, nn.Conv2d(dim, dim, 1), nn.GELU(), nn.BatchNorm2d(dim))

    stem = [nn.Conv2d(3, 32, 4, stride=4), nn.GELU(), nn.BatchNorm2d(32)]
    return nn.Sequential(
        *stem, block(32), block(32), nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Linear(32, CLASSES)
    )


class Scale(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, width, 1, 1))
        self.shift = nn.Parameter(torch.zeros(1, width, 1, 1))

    def forward(self, x):
        return x * self.scale + self.shift


def bare_scales():
    """Normaliser-free and FixUp nets: bare parameters that scale and shift channels."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        Scale(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        Scale(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, CLASSES),
    )


def fixup():
    class Fixup(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(width, width, 3, 1, 1), nn.Conv2d(width, width, 3, 1, 1)
            self.bias1, self.bias2 = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return F.relu(x + self.scale * self.conv2(F.relu(self.conv1(x + self.bias1)) + self.bias2))

    return ResNet(Fixup(16), Fixup(16), outputs=16)


def stochastic_depth():
    class Drop(BasicBlock):
        def forward(self, x):
            out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
            if self.training:
                out = out * torch.bernoulli(torch.full((x.shape[0], 1, 1, 1), 0.8)) / 0.8
            return self.relu(out + x)

    return ResNet(Drop(16, 16), Drop(16, 16), outputs=16)


def old_weight_norm():
    return nn.Sequential(
        nn.utils.weight_norm(nn.Conv2d(3, 16, 3, padding=1)),
        nn.ReLU(),
        nn.utils.weight_norm(nn.Conv2d(16, 32, 3, stride=2, padding=1)),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.utils.weight_norm(nn.Linear(32, CLASSES), dim=None),
    )


def new_weight_norm():
    return nn.Sequential(
        parametrizations.weight_norm(nn.Conv2d(3, 16, 3, padding=1)),
        nn.ELU(),
        parametrizations.weight_norm(nn.Conv2d(16, 32, 3, stride=2, padding=1)),
        nn.ELU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, CLASSES),
    )


def old_spectral_norm():
    return nn.Sequential(
        nn.utils.spectral_norm(nn.Conv2d(3, 16, 3, padding=1)),
        nn.LeakyReLU(0.1),
        nn.utils.spectral_norm(nn.Conv2d(16, 32, 4, stride=2, padding=1)),
        nn.LeakyReLU(0.1),
        nn.Flatten(),
        nn.utils.spectral_norm(nn.Linear(32 * 64, CLASSES)),
    )


def new_spectral_norm():
    return nn.Sequential(
        parametrizations.spectral_norm(nn.Conv2d(3, 16, 3, padding=1)),
        nn.LeakyReLU(0.1),
        parametrizations.spectral_norm(nn.Conv2d(16, 32, 4, stride=2, padding=1)),
        nn.LeakyReLU(0.1),
        nn.Flatten(),
        nn.Linear(32 * 64, CLASSES),
    )


def own_parametrization():
    class Centred(nn.Module):
        """Weight standardisation."""

        def forward(self, weight):
            return weight - weight.mean((1, 2, 3), keepdim=True)

    first, second = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 24, 3, padding=1)
    nn.utils.parametrize.register_parametrization(second, "weight", Centred())
    return nn.Sequential(
        first, nn.ReLU(), second, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, CLASSES)
    )


class StandardizedConv2d(nn.Conv2d):
    """BiT: a convolution that standardises its weight in forward."""

    def forward(self, x):
        w = self.weight
        v, m = torch.var_mean(w, dim=[1, 2, 3], keepdim=True, unbiased=False)
        return F.conv2d(
            x, (w - m) / torch.sqrt(v + 1e-5), self.bias, self.stride, self.padding, self.dilation, self.groups
        )


def standardized_convolutions():
    return nn.Sequential(
        StandardizedConv2d(3, 16, 3, padding=1),
        nn.GroupNorm(4, 16),
        nn.ReLU(),
        StandardizedConv2d(16, 32, 3, padding=1),
        nn.GroupNorm(4, 32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 24),
        nn.ReLU(),
        nn.Linear(24, CLASSES),
    )


class UNetClassifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.down1, self.down2 = conv_bn(3, 16, act=nn.ReLU), conv_bn(16, 32, act=nn.ReLU)
        self.up = nn.ConvTranspose2d(32, 16, 2, stride=2)
        self.merge = conv_bn(32, 16, act=nn.ReLU)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x):
        skip = self.down1(x)
        x = self.up(self.down2(F.max_pool2d(skip, 2)))
        x = self.merge(torch.cat([skip, x], dim=1))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class UNetUpsampled(nn.Module):
    def __init__(self):
        super().__init__()
        self.down1, self.down2 = conv_bn(3, 16, act=nn.ReLU), conv_bn(16, 32, act=nn.ReLU)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.merge = conv_bn(48, 16, act=nn.ReLU)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x):
        skip = self.down1(x)
        x = self.up(self.down2(F.max_pool2d(skip, 2)))
        diff = skip.size(2) - x.size(2)
        x = F.pad(x, [diff // 2, diff - diff // 2, diff // 2, diff - diff // 2])
        return self.head(self.merge(torch.cat([skip, x], dim=1)).mean((2, 3)))


def pixel_shuffle():
    return nn.Sequential(
        conv_bn(3, 16, 3, 2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.PixelShuffle(2),
        nn.ReLU(),
        conv_bn(8, 24, 3, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, CLASSES),
    )


def pixel_unshuffle():
    return nn.Sequential(
        nn.PixelUnshuffle(2),
        conv_bn(12, 16),
        conv_bn(16, 24),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, CLASSES),
    )


def dilated():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=2, dilation=2),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 24, 3, padding=4, dilation=4),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(24, CLASSES),
    )


class Aspp(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = conv_bn(3, 16)
        self.branches = nn.ModuleList([nn.Conv2d(16, 8, 3, padding=rate, dilation=rate) for rate in (1, 2, 4)])
        self.pool = nn.Conv2d(16, 8, 1)
        self.project = conv_bn(32, 24, 1)
        self.head = nn.Linear(24, CLASSES)

    def forward(self, x):
        x = self.stem(x)
        pooled = F.interpolate(self.pool(F.adaptive_avg_pool2d(x, 1)), size=x.shape[-2:], mode="nearest")
        x = self.project(torch.cat([*(branch(x) for branch in self.branches), pooled], dim=1))
        return self.head(x.mean(dim=(-2, -1)))


class Highway(nn.Module):
    def __init__(self, width=24):
        super().__init__()
        self.stem, self.gate, self.transform = (
            nn.Linear(3 * 16 * 16, width),
            nn.Linear(width, width),
            nn.Linear(width, width),
        )
        self.out = nn.Linear(width, CLASSES)

    def forward(self, x):
        x = torch.relu(self.stem(x.flatten(1)))
        t = torch.sigmoid(self.gate(x))
        x = t * torch.relu(self.transform(x)) + (1 - t) * x
        return self.out(x)


class Maxout(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 32, 3, padding=1), nn.Linear(16, CLASSES)

    def forward(self, x):
        a, b = torch.split(self.conv(x), 16, dim=1)
        return self.last(torch.max(a, b).mean((2, 3)))


class GatedConv(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(16, 48, 3, stride=2, padding=1)
        self.last = nn.Linear(24, CLASSES)

    def forward(self, x):
        x = F.glu(self.conv1(x), dim=1)
        x = F.glu(self.conv2(x), dim=1)
        return self.last(x.mean((2, 3)))


class ChunkGate(nn.Module):
    """NAFNet's simple gate."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        self.last = nn.Linear(16, CLASSES)

    def forward(self, x):
        a, b = self.conv1(x).chunk(2, dim=1)
        a, b = self.conv2(a * b).chunk(2, dim=1)
        return self.last((a * b).mean((2, 3)))


class Capsules(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.primary = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.route = nn.Parameter(0.1 * torch.randn(CLASSES, 64, 8, 4))

    def forward(self, x):
        x = self.primary(F.relu(self.conv(x))).view(x.size(0), -1, 8)
        x = x / (1 + x.norm(dim=-1, keepdim=True))
        votes = torch.einsum("nid,cide->ncie", x, self.route)
        return votes.mean(2).norm(dim=-1)


class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.tower = nn.Sequential(conv_bn(3, 16, 3, 2), conv_bn(16, 24, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Sequential(nn.Linear(72, 24), nn.ReLU(), nn.Linear(24, CLASSES))

    def forward(self, left, right):
        a, b = self.tower(left), self.tower(right)
        return self.head(torch.cat([torch.abs(a - b), a * b, b], dim=1))


class TwoStreams(nn.Module):
    """An image and a vector of numbers."""

    def __init__(self):
        super().__init__()
        self.image = nn.Sequential(conv_bn(3, 16, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.table = nn.Sequential(nn.Linear(6, 16), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, CLASSES))

    def forward(self, image, table):
        return self.head(torch.cat((self.image(image), self.table(table)), dim=-1))


class TiedConvolutions(nn.Module):
    """One module that runs twice, and two that share a weight."""

    def __init__(self):
        super().__init__()
        self.stem, self.loop = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.first, self.second = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.second.weight = self.first.weight
        self.wide = nn.Conv2d(16, 32, 3, padding=1)
        self.head = nn.Linear(32, CLASSES)

    def forward(self, x):
        x = F.relu(self.loop(F.relu(self.loop(F.relu(self.stem(x))))))
        x = F.relu(self.second(F.relu(self.first(x))))
        return self.head(F.relu(self.wide(x)).mean((2, 3)))


class Octave(nn.Module):
    """Two resolutions that exchange channels."""

    def __init__(self):
        super().__init__()
        self.high, self.low = conv_bn(3, 16), conv_bn(3, 8)
        self.hh, self.hl, self.lh, self.ll = (
            nn.Conv2d(a, b, 3, padding=1) for a, b in ((16, 16), (16, 8), (8, 16), (8, 8))
        )
        self.head = nn.Linear(24, CLASSES)

    def forward(self, x):
        high, low = self.high(x), self.low(F.avg_pool2d(x, 2))
        up = F.interpolate(self.lh(low), scale_factor=2)
        high, low = self.hh(high) + up, self.ll(low) + self.hl(F.avg_pool2d(high, 2))
        return self.head(torch.cat([F.relu(high).mean((2, 3)), F.relu(low).mean((2, 3))], 1))


class Res2Net(nn.Module):
    """A map split into four, each part added to the next."""

    def __init__(self):
        super().__init__()
        self.stem = conv_bn(3, 32, 3, 2)
        self.convs = nn.ModuleList([nn.Conv2d(8, 8, 3, padding=1) for _ in range(3)])
        self.last = conv_bn(32, 24, 1)
        self.head = nn.Linear(24, CLASSES)

    def forward(self, x):
        parts = torch.split(self.stem(x), 8, 1)
        outs, sp = [parts[0]], parts[1]
        for index, conv in enumerate(self.convs):
            sp = conv(sp if index == 0 else sp + parts[index + 1])
            outs.append(F.relu(sp))
        return self.head(self.last(torch.cat(outs, 1)).mean((2, 3)))


class Csp(nn.Module):
    """YOLO's C2f: the halves of a map, and what is made of one."""

    def __init__(self):
        super().__init__()
        self.stem, self.cv1 = conv_bn(3, 16, 3, 2, act=nn.SiLU), conv_bn(16, 32, 1, act=nn.SiLU)
        self.m = nn.ModuleList(
            [nn.Sequential(conv_bn(16, 16, act=nn.SiLU), conv_bn(16, 16, act=nn.SiLU)) for _ in range(2)]
        )
        self.cv2, self.head = conv_bn(64, 32, 1, act=nn.SiLU), nn.Linear(32, CLASSES)

    def forward(self, x):
        y = list(self.cv1(self.stem(x)).chunk(2, 1))
        y.extend(m(y[-1]) for m in self.m)
        return self.head(self.cv2(torch.cat(y, 1)).mean((2, 3)))


class GhostModule(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.primary = conv_bn(inputs, outputs // 2, 1, act=nn.ReLU)
        self.cheap = conv_bn(outputs // 2, outputs // 2, 3, groups=outputs // 2, act=nn.ReLU)

    def forward(self, x):
        x1 = self.primary(x)
        return torch.cat([x1, self.cheap(x1)], dim=1)


def ghostnet():
    body = [conv_bn(3, 16, 3, 2), GhostModule(16, 32), GhostModule(32, 48)]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, CLASSES))


class RepVgg(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.dense = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
        self.point = nn.Sequential(nn.Conv2d(width, width, 1, bias=False), nn.BatchNorm2d(width))
        self.identity = nn.BatchNorm2d(width)

    def forward(self, x):
        return F.relu(self.dense(x) + self.point(x) + self.identity(x))


def repvgg():
    body = [conv_bn(3, 16, 3, 2), RepVgg(16), RepVgg(16), conv_bn(16, 32)]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, CLASSES))


class SelectiveKernel(nn.Module):
    """SKNet: a softmax over branches."""

    def __init__(self):
        super().__init__()
        self.stem = conv_bn(3, 16, 3, 2)
        self.a, self.b = conv_bn(16, 24), conv_bn(16, 24, 5)
        self.fc, self.fcs = nn.Linear(24, 8), nn.ModuleList([nn.Linear(8, 24), nn.Linear(8, 24)])
        self.head = nn.Linear(24, CLASSES)

    def forward(self, x):
        x = self.stem(x)
        feats = torch.stack([self.a(x), self.b(x)], dim=1)
        z = F.relu(self.fc(feats.sum(dim=1).mean(-1).mean(-1)))
        weights = torch.stack([fc(z) for fc in self.fcs], dim=1).softmax(dim=1)
        return self.head((feats * weights.unsqueeze(-1).unsqueeze(-1)).sum(dim=1).mean((2, 3)))


class NonLocal(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = conv_bn(3, 24, 3, 2)
        self.theta, self.phi, self.g, self.out = (
            nn.Conv2d(24, 16, 1),
            nn.Conv2d(24, 16, 1),
            nn.Conv2d(24, 16, 1),
            nn.Conv2d(16, 24, 1),
        )
        self.last, self.head = conv_bn(24, 32, 3, 2), nn.Linear(32, CLASSES)

    def forward(self, x):
        x = self.stem(x)
        n, _, h, w = x.shape
        theta, phi, g = self.theta(x).flatten(2), self.phi(x).flatten(2), self.g(x).flatten(2)
        attention = torch.softmax(theta.transpose(1, 2) @ phi, dim=-1)
        y = (attention @ g.transpose(1, 2)).transpose(1, 2).reshape(n, -1, h, w)
        return self.head(self.last(x + self.out(y)).mean((2, 3)))


def bilinear():
    class Bilinear(nn.Module):
        """Bilinear pooling: a product of channels with channels."""

        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(conv_bn(3, 16, 3, 2), conv_bn(16, 12, 3, 2))
            self.fc = nn.Linear(144, CLASSES)

        def forward(self, x):
            x = self.features(x).flatten(2)
            x = torch.bmm(x, x.transpose(1, 2)) / x.size(2)
            return self.fc(x.flatten(1))

    return Bilinear()


def coordinates():
    class CoordConv(nn.Module):
        """Constant channels put beside those that are computed."""

        def __init__(self):
            super().__init__()
            self.stem, self.conv = conv_bn(3, 16, 3, 2), nn.Conv2d(18, 24, 3, padding=1)
            self.fc = nn.Linear(24, CLASSES)
            line = torch.linspace(-1, 1, 8)
            self.register_buffer("grid", torch.stack(torch.meshgrid(line, line, indexing="ij"))[None])

        def forward(self, x):
            x = self.stem(x)
            x = torch.cat([x, self.grid.expand(x.shape[0], -1, -1, -1)], dim=1)
            return self.fc(F.relu(self.conv(x)).mean((2, 3)))

    return CoordConv()


def fixed_blur():
    class Blur(nn.Module):
        """Antialiasing: a depthwise filter that is a buffer."""

        def __init__(self, channels):
            super().__init__()
            row = torch.tensor([1.0, 2.0, 1.0]) / 4
            self.register_buffer("kernel", (row[:, None] * row).repeat(channels, 1, 1, 1))

        def forward(self, x):
            return F.conv2d(x, self.kernel, stride=2, padding=1, groups=x.shape[1])

    return nn.Sequential(
        conv_bn(3, 16), Blur(16), conv_bn(16, 32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, CLASSES)
    )


def statistics_pooling():
    class Stats(nn.Module):
        def forward(self, x):
            x = x.flatten(2)
            return torch.cat([x.mean(2), x.std(2)], dim=1)

    return nn.Sequential(conv_bn(3, 16), conv_bn(16, 24, 3, 2), Stats(), nn.Linear(48, CLASSES))


def cosine_head():
    class Cosine(nn.Module):
        def __init__(self, inputs, outputs):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(outputs, inputs))
            self.scale = nn.Parameter(torch.tensor(8.0))

        def forward(self, x):
            return self.scale * F.linear(F.normalize(x), F.normalize(self.weight))

    return nn.Sequential(
        conv_bn(3, 16), conv_bn(16, 24, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), Cosine(24, CLASSES)
    )


def video():
    return nn.Sequential(
        nn.Conv3d(3, 16, 3, padding=1),
        nn.BatchNorm3d(16),
        nn.ReLU(),
        nn.MaxPool3d(2),
        nn.Conv3d(16, 24, 3, padding=1),
        nn.BatchNorm3d(24),
        nn.ReLU(),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(24, CLASSES),
    )
