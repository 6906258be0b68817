import numpy as np
from torch import nn


def data(n=500):
    """Two leads of a heart at 50 Hz; how often does it beat a minute?"""
    rng = np.random.default_rng(5)
    t = np.arange(96) / 50
    rate = rng.uniform(45, 180, n)
    phase = rng.uniform(0, 1, (n, 1))
    beat = np.exp(-(((t * rate[:, None] / 60 + phase) % 1 - 0.5) ** 2) / 0.01)
    leads = np.stack([1.2 * beat, 300 - 80 * beat], 1) + rng.normal(0, 1, (n, 2, 96)) * [[0.05], [4]]
    return {"train": (leads.astype(np.float32), rate.reshape(-1, 1).astype(np.float32))}


def conv(i, o, stride):
    return nn.Sequential(nn.Conv1d(i, o, 7, stride, 3, bias=False), nn.BatchNorm1d(o), nn.ReLU(inplace=True))


class Rate(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.body = nn.Sequential(conv(2, c, 1), conv(c, 2 * c, 2), conv(2 * c, 2 * c, 2))
        self.head = nn.Linear(2 * c, 1)

    def forward(self, signal):
        return self.head(self.body(signal).mean(-1))


def build(big=False):
    return Rate(16 if big else 8)
