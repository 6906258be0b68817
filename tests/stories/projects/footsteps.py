"""Is a foot on the ground? One answer for each step of the recording."""
import numpy as np
import torch.nn as nn


def data(n=400, T=30):
    rng = np.random.default_rng(11)
    pace = rng.uniform(0.3, 0.8, (n, 1))
    phase = pace * np.arange(T) + rng.uniform(0, 2 * np.pi, (n, 1))
    ground = np.sin(phase) > 0.2
    pressure = 3 * ground + rng.normal(0, 1, (n, T))
    swing = np.cos(phase) + rng.normal(0, 0.2, (n, T))
    return {"train": (np.stack([pressure, swing], 2).astype("float32"), ground.astype(int))}


class Steps(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.conv = nn.Conv1d(2, n, 5, padding=2)
        self.relu = nn.ReLU()
        self.gru = nn.GRU(n, n, batch_first=True, bidirectional=True)
        self.out = nn.Linear(2 * n, 1)

    def forward(self, x):
        x = self.relu(self.conv(x.transpose(1, 2))).transpose(1, 2)
        x, _ = self.gru(x)
        return self.out(x).squeeze(-1)  # [N, T], for BCEWithLogitsLoss


def build(big=False):
    return Steps(24 if big else 12)
