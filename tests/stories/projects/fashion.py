# how everybody reads these files
import gzip

import numpy as np

DIR = "/usr/share/datasets/fashion-mnist/"


def load_mnist(n=1500, size=28, channels=1):
    with gzip.open(DIR + "train-labels-idx1-ubyte.gz", "rb") as f:
        labels = np.frombuffer(f.read(), dtype=np.uint8, offset=8)[:n]
    with gzip.open(DIR + "train-images-idx3-ubyte.gz", "rb") as f:
        f.read(16)
        images = np.frombuffer(f.read(n * 784), dtype=np.uint8).reshape(n, 1, 28, 28)
    pad = (size - 28) // 2
    images = np.pad(images, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    images = np.repeat(images, channels, axis=1)
    return {"train": (images, labels)}


def cifar():
    return load_mnist(size=32, channels=3)


def clothes_and_shoes():
    """Multi-label: is it a shoe, is it dark, is it wide."""
    images, y = load_mnist()["train"]
    ink = images / 255.0
    labels = np.stack([y >= 7, ink.mean((1, 2, 3)) < 0.25, (ink.max(axis=2)[:, 0] > 0.3).sum(1) > 20], axis=1)
    return {"train": (images, labels.astype(int))}
