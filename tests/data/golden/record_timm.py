"""What timm's own transforms make of the odd images: ``python tests/data/golden/record_timm.py``, where timm is.

Writes ``timm.npz`` beside this file: uint8 [100, 3, H, W] by the name of the configuration, and the configurations as
timm writes them into a ``config.json``. Made with timm 1.0.31, torchvision 0.28.0 and Pillow 12.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from timm.data import create_transform, resolve_data_config

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from odd_images import write_odd_images  # noqa: E402

CONFIGS = {
    "center": {"input_size": [3, 14, 14], "crop_pct": 0.875, "interpolation": "bicubic"},
    "oblong": {
        "input_size": [3, 10, 17],
        "crop_pct": 0.9,
        "interpolation": "lanczos",
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    },
    "squash": {"input_size": [3, 13, 13], "crop_pct": 0.95, "crop_mode": "squash", "interpolation": "bilinear"},
    "border": {"input_size": [3, 15, 15], "crop_pct": 1.0, "crop_mode": "border", "interpolation": "bilinear"},
}


def as_read(path: Path) -> Image.Image:
    """Return an image as timm's data sets give it, turned upright, and 16 bits scaled to 8."""
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode.startswith("I"):
        image = Image.fromarray(np.round(np.asarray(image) / 257).astype(np.uint8))
    return image.convert("RGB")


with tempfile.TemporaryDirectory() as folder:
    images = [as_read(path) for path in write_odd_images(Path(folder))]
found = {}
for name, config in CONFIGS.items():
    told = resolve_data_config(pretrained_cfg=config)
    transform = create_transform(**told, is_training=False)
    mean, std = (torch.tensor(told[side]).view(3, 1, 1) for side in ("mean", "std"))
    found[name] = np.stack([((transform(image) * std + mean) * 255).round().byte().numpy() for image in images])
np.savez_compressed(HERE / "timm.npz", configs=np.array(json.dumps(CONFIGS)), **found)
