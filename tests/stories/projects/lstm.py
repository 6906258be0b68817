import numpy as np
import torch
import torch.nn as nn

ACTIVITIES = ["walking", "running", "resting"]


def data(n=900, T=40):
    """three axes of an accelerometer at 20 Hz, in g"""
    rng = np.random.RandomState(42)
    t = np.arange(T) / 20.0
    X, y = [], []
    for i in range(n):
        k = i % 3
        f, a = [(1.8, 0.3), (2.9, 1.1), (0.2, 0.02)][k]
        f *= rng.uniform(0.9, 1.1)
        phase = rng.uniform(0, 2 * np.pi)
        x = np.stack([a * np.sin(2 * np.pi * f * t + phase), 1 + a * np.cos(2 * np.pi * f * t), 0.5 * a * np.sin(4 * np.pi * f * t)], 1)
        X.append(x + rng.normal(0, 0.1, x.shape))
        y.append(ACTIVITIES[k])
    return {"train": (np.array(X, dtype="float32"), np.array(y))}


class HAR(nn.Module):
    def __init__(self, hidden_size=32, num_layers=1):
        super(HAR, self).__init__()
        self.lstm = nn.LSTM(3, hidden_size, num_layers, batch_first=True)
        self.dropout = nn.Dropout(0.1)
        self.fc = nn.Linear(hidden_size, 3)

    def forward(self, x):
        out, (h_n, c_n) = self.lstm(x)
        out = self.dropout(out[:, -1, :])
        return self.fc(out)


def build(big=False):
    return HAR(48 if big else 32)
