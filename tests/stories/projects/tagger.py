"""Which gait does the wearer have at each moment? Recordings differ in length."""
import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

GAITS = ["resting", "walking", "running"]


class Recordings(Dataset):
    classes = GAITS

    def __init__(self, n=300):
        rng = np.random.RandomState(1)
        self.x, self.y = [], []
        for _ in range(n):
            gaits = np.repeat(rng.randint(0, 3, 8), rng.randint(2, 7, 8))[: rng.randint(12, 25)]
            amplitude, step = np.array([0.1, 1.0, 2.0])[gaits], np.array([0.0, 0.25, 0.5])[gaits]
            phase = 2 * np.pi * np.cumsum(step)
            x = amplitude[:, None] * np.stack([np.sin(phase), np.cos(phase)], 1) + rng.normal(0, 0.2, (len(gaits), 2))
            gaits = gaits.copy()
            gaits[0] = -100  # unknown until the first step is over
            self.x.append(torch.tensor(x, dtype=torch.float32))
            self.y.append(torch.tensor(gaits))

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], self.y[i]


def data():
    return {"train": Recordings()}


class GRUTagger(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.gru = nn.GRU(2, hidden, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(2 * hidden, len(GAITS))

    def forward(self, sequence, lengths):
        out, h = self.gru(sequence)
        return self.fc(out).transpose(1, 2)  # [N, C, T], as nn.CrossEntropyLoss takes it


def build(big=False):
    return GRUTagger(24 if big else 12)
