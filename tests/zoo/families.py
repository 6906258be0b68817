"""What pruning, export and int8 do to architectures of torchvision, timm and transformers; writes docs/families.md.

pip install 'compress-onnx[hf,timm,vision]' && python tests/zoo/families.py ["ResNet-18" ...]

Weights are random and inputs small: nothing is downloaded. Named architectures are looked at anew, the others keep
their lines.
"""

import importlib
import re
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from suite import EXACT, quiet, to_int8
from torch import Tensor, nn

from compress.errors import CompressError, StageError
from compress.functional import export, prune
from compress.surgery.prune import Pruned, find_reach

DOCUMENT = Path(__file__).parents[2] / "docs" / "families.md"
BEGIN, END = "<!-- families: written by `python tests/zoo/families.py`, do not edit -->", "<!-- end of families -->"
LIBRARIES = ("torch", "torchvision", "timm", "transformers", "onnxruntime")
HEAD = [
    "| architecture | of | parameters | MACs asked | MACs kept | proof | int8 MACs | what stays, or is refused |",
    "|---|---|---:|---:|---:|---|---:|---|",
]
ASKED = 0.6
CLASSES, WORDS, LENGTH = 10, 120, 12


@dataclass(frozen=True)
class Architecture:
    """One that a library builds."""

    library: str
    name: str
    size: int = 64
    """Height and width of the images, in pixels."""
    arguments: dict[str, Any] | None = None

    def build(self) -> tuple[nn.Module, tuple[Tensor, ...]]:
        """It with random weights, and two samples for it."""
        torch.manual_seed(0)
        return _BUILDERS[self.library](self)


def _torchvision(asked: Architecture) -> tuple[nn.Module, tuple[Tensor, ...]]:
    models = importlib.import_module("torchvision.models")
    arguments = {"num_classes": CLASSES} | (asked.arguments or {})
    home, _, kind = asked.name.rpartition(".")
    made = getattr(getattr(models, home), kind)(**arguments) if home else models.get_model(asked.name, **arguments)
    return made, (torch.randn(2, 3, asked.size, asked.size),)


def _detector(asked: Architecture) -> tuple[nn.Module, tuple[Tensor, ...]]:
    utils = importlib.import_module("torchvision.models.detection.backbone_utils")
    backbone = utils.resnet_fpn_backbone(
        backbone_name=asked.name, weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5
    )
    return _Pyramid(backbone), (torch.randn(2, 3, asked.size, asked.size),)


class _Pyramid(nn.Module):
    """A detector's backbone with a head that reads every level of its feature pyramid."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Conv2d(256, CLASSES, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        levels = self.backbone(images).values()
        return torch.stack([self.head(level).mean((2, 3)) for level in levels]).sum(0)


def _timm(asked: Architecture) -> tuple[nn.Module, tuple[Tensor, ...]]:
    timm = importlib.import_module("timm")
    return timm.create_model(asked.name, num_classes=CLASSES, **asked.arguments or {}), (
        torch.randn(2, 3, asked.size, asked.size),
    )


class _Logits(nn.Module):
    """A classifier of transformers that gives logits alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits


def _transformers(asked: Architecture) -> tuple[nn.Module, tuple[Tensor, ...]]:
    library = importlib.import_module("transformers")
    small = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 128}
    config = library.AutoConfig.for_model(
        asked.name, vocab_size=WORDS, num_labels=CLASSES, **small, **asked.arguments or {}
    )
    module = library.AutoModelForSequenceClassification.from_config(config)
    words = torch.randint(5, WORDS, (2, LENGTH))
    return _Logits(module), (words, torch.ones_like(words))


_BUILDERS: dict[str, Callable[[Architecture], tuple[nn.Module, tuple[Tensor, ...]]]] = {
    "torchvision": _torchvision,
    "torchvision detection": _detector,
    "timm": _timm,
    "transformers": _transformers,
}
SMALL = {"img_size": 64}
ARCHITECTURES: dict[str, Architecture] = {
    "ResNet-18": Architecture("torchvision", "resnet18"),
    "ResNet-50": Architecture("timm", "resnet50"),
    "ResNeXt-50": Architecture("torchvision", "resnext50_32x4d"),
    "RegNetY-400MF": Architecture("torchvision", "regnet_y_400mf"),
    "RegNetX-200MF": Architecture("timm", "regnetx_002"),
    "ViT-Ti": Architecture("timm", "vit_tiny_patch16_224", arguments=SMALL | {"depth": 4}),
    "DeiT-Ti, distilled": Architecture("timm", "deit_tiny_distilled_patch16_224", arguments=SMALL | {"depth": 4}),
    "Swin": Architecture(
        "timm",
        "swin_tiny_patch4_window7_224",
        arguments=SMALL | {"embed_dim": 48, "window_size": 4, "depths": (2, 2), "num_heads": (3, 6)},
    ),
    "MobileNet v2": Architecture("torchvision", "mobilenet_v2"),
    "MobileNet v3": Architecture("torchvision", "mobilenet_v3_small"),
    "EfficientNet-lite0": Architecture("timm", "efficientnet_lite0"),
    "EfficientNet-B0": Architecture("torchvision", "efficientnet_b0"),
    "ShuffleNet v2": Architecture("torchvision", "shufflenet_v2_x0_5"),
    "ConvNeXt": Architecture("timm", "convnext_atto", arguments={"depths": (2, 2, 2, 2)}),
    "MobileViT": Architecture("timm", "mobilevit_xxs"),
    "DenseNet": Architecture("torchvision", "densenet.DenseNet", arguments={"block_config": (3, 4, 4, 3)}),
    "VGG-11": Architecture("timm", "vgg11_bn", arguments={"mlp_ratio": 1 / 16}),
    "GoogLeNet, auxiliary heads": Architecture("torchvision", "googlenet", arguments={"init_weights": False}),
    "ResNet-18 with a feature pyramid": Architecture("torchvision detection", "resnet18"),
    "ViT of torchvision": Architecture(
        "torchvision",
        "vision_transformer.VisionTransformer",
        arguments={
            "image_size": 64,
            "patch_size": 16,
            "num_layers": 4,
            "num_heads": 4,
            "hidden_dim": 128,
            "mlp_dim": 256,
        },
    ),
    "Swin of torchvision": Architecture(
        "torchvision",
        "swin_transformer.SwinTransformer",
        arguments={
            "patch_size": [4, 4],
            "embed_dim": 48,
            "depths": [2, 2],
            "num_heads": [3, 6],
            "window_size": [4, 4],
        },
    ),
    "MLP-Mixer": Architecture("timm", "mixer_s32_224", arguments=SMALL),
    "SqueezeNet": Architecture("torchvision", "squeezenet1_1"),
    "GhostNet": Architecture("timm", "ghostnet_050"),
    "Inception v3": Architecture("torchvision", "inception_v3", 96, {"init_weights": False, "aux_logits": False}),
    "XLM-RoBERTa": Architecture("transformers", "xlm-roberta"),
    "CamemBERT": Architecture("transformers", "camembert"),
    "MPNet": Architecture("transformers", "mpnet"),
    "ALBERT": Architecture("transformers", "albert", arguments={"embedding_size": 32}),
    "ModernBERT": Architecture("transformers", "modernbert", arguments={"pad_token_id": 0}),
}


def look(name: str) -> str:
    """A line of the table: the named architecture is pruned, exported and quantized, or refused before all that.

    Raises:
        CompressError: from export; what pruning and quantization foresee is in the line.
    """
    asked = ARCHITECTURES[name]
    kept, goal, proof, int8 = "-", "-", "-", "-"
    with quiet():
        module, example = asked.build()
        module.eval()
        parameters = f"{sum(parameter.numel() for parameter in module.parameters()) / 1e6:.2f} M"
        try:
            pruned = _prune(module, example)
        except CompressError as error:
            remarks = [f"prune refuses: {error.message}" + ("" if error.got is None else f": {_short(str(error.got))}")]
        else:
            kept, goal = f"{pruned.choice.reached:.2f}", f"{pruned.choice.target:.2f}"
            proof = f"below {EXACT:g}" if pruned.masked_difference < EXACT else f"{pruned.masked_difference:.0e}"
            names = ", ".join(f"`{item.name}`" for item in pruned.left[:3]) + (" ..." if len(pruned.left) > 3 else "")
            remarks = [f"stays: {names} ({_short(pruned.left[0].reason)})"] if pruned.left else []
            module = pruned.module
        with tempfile.TemporaryDirectory() as directory:
            export(module, example, Path(directory) / "fp32.onnx", quiet=True)
        share, refusal = to_int8(module, example)
        int8 = "-" if share is None else f"{share:.0%}"
    told = "; ".join([*remarks, *refusal]).replace("|", "\\|")
    return f"| {name} | {asked.library} | {parameters} | {goal} | {kept} | {proof} | {int8} | {told} |"


def _prune(module: nn.Module, example: tuple[Tensor, ...]) -> Pruned:
    """The module with as much of its MACs as is asked, or with as few as it can have."""
    try:
        return prune(module, example, kept_macs_fraction=ASKED, quiet=True)
    except StageError:
        reach = find_reach(module, example, measure="macs")
        return prune(module, example, kept_macs_fraction=max(ASKED, reach.smallest), quiet=True)


def _short(reason: str) -> str:
    return re.split(r" \(between|; model\.", reason)[0][:300]


def read() -> dict[str, str]:
    """The lines of the table that the document holds, by the architecture's name."""
    lines = DOCUMENT.read_text().partition(BEGIN)[2].partition(END)[0].strip().splitlines()
    return {line.split(" | ")[0].removeprefix("| "): line for line in lines if line.endswith(" |")}


def write(names: list[str]) -> None:
    """Look at the named architectures, or at all, and write the table."""
    rows = {name: line for name, line in read().items() if name in ARCHITECTURES}
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    for name in names or ARCHITECTURES:
        began = time.process_time()
        rows[name] = look(name)
        print(rows[name], f"{time.process_time() - began:.0f} s", file=sys.stderr, flush=True)
        lines = [rows[each] for each in ARCHITECTURES if each in rows]
        made = f"Of {', '.join(f'{each} {version(each)}' for each in LIBRARIES)}, on {datetime.now(UTC):%-d %B %Y}."
        table = "\n".join([*HEAD, *lines])
        DOCUMENT.write_text(f"{before}{BEGIN}\n\n{table}\n\n{made}\n\n{END}{after}")


if __name__ == "__main__":
    write(sys.argv[1:])
