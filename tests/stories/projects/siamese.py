import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F


def pairs(n=800):
    """were these two signatures written by the same hand?"""
    rng = np.random.default_rng(3)
    hands = rng.normal(size=(60, 16))
    left = rng.integers(0, 60, n)
    same = np.arange(n) % 2
    right = np.where(same, left, (left + rng.integers(1, 60, n)) % 60)
    a, b = (hands[who] + rng.normal(0, 0.25, (n, 16)) for who in (left, right))
    return {"train": ({"left": a.astype("float32"), "right": b.astype("float32")}, same)}


class SiameseScorer(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(16, d), nn.BatchNorm1d(d), nn.ReLU(), nn.Linear(d, d))
        self.score = nn.Linear(2 * d, 1)

    def forward(self, left, right):
        u, v = self.embed(left), self.embed(right)
        return self.score(torch.cat([(u - v).abs(), F.relu(u * v)], dim=1)).squeeze(1)  # one logit


def build(big=False):
    return SiameseScorer(48 if big else 24)
