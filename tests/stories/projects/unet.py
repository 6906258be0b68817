import torch
import torch.nn as nn


def double_conv(i, o):
    return nn.Sequential(
        nn.Conv2d(i, o, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(o),
        nn.ReLU(inplace=True),
        nn.Conv2d(o, o, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(o),
        nn.ReLU(inplace=True),
    )


class UNet(nn.Module):
    def __init__(self, w, n_class=10):
        super().__init__()
        self.dconv_down1 = double_conv(1, w)
        self.dconv_down2 = double_conv(w, 2 * w)
        self.dconv_down3 = double_conv(2 * w, 4 * w)
        self.maxpool = nn.MaxPool2d(2)
        self.upsample = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.up = nn.ConvTranspose2d(2 * w, w, 2, stride=2)
        self.dconv_up2 = double_conv(2 * w + 4 * w, 2 * w)
        self.dconv_up1 = double_conv(w + w, w)
        self.conv_last = nn.Conv2d(w, n_class, 1)

    def forward(self, x):
        conv1 = self.dconv_down1(x)
        conv2 = self.dconv_down2(self.maxpool(conv1))
        x = self.dconv_down3(self.maxpool(conv2))
        x = self.upsample(x)
        x = torch.cat([x, conv2], dim=1)
        x = self.up(self.dconv_up2(x))
        x = torch.cat([x, conv1], dim=1)
        x = self.dconv_up1(x)
        out = self.conv_last(x)
        return out.mean(dim=(2, 3))


def build(big=False):
    return UNet(8 if big else 4)
