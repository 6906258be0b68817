import torch.nn as nn


class Tagger(nn.Module):
    def __init__(self, n):
        super(Tagger, self).__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(1, n, 3, 2, 1), nn.GroupNorm(4, n), nn.SiLU())
        self.layer2 = nn.Sequential(nn.Conv2d(n, 2 * n, 3, 2, 1), nn.PReLU(2 * n), nn.AvgPool2d(7))
        self.fc = nn.Linear(2 * n, 3)

    def forward(self, x):
        out = self.layer2(self.layer1(x))
        out = out.reshape(out.size(0), -1)
        return self.fc(out)


def build(big=False):
    return Tagger(16 if big else 8)
