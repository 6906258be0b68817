"""Tiny transformers of every family that prune knows, from configurations alone, with weights that hide nothing."""

from collections.abc import Callable

import torch
import transformers
from torch import Tensor, nn

SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
TEXT = {"vocab_size": 50, "max_position_embeddings": 20, "num_labels": 3}
IMAGE = {"image_size": 8, "patch_size": 4, "num_channels": 1, "num_labels": 3}
DISTILBERT = {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48}
RELATIVE = {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "share_att_key": False,
    "norm_rel_ebd": "layer_norm",
    "position_buckets": 4,
}
# Name -> class, configuration, sizes.
FAMILIES: dict[str, tuple[str, str, dict]] = {
    "bert": ("BertForSequenceClassification", "BertConfig", SIZES | TEXT),
    "roberta": ("RobertaForSequenceClassification", "RobertaConfig", SIZES | TEXT),
    "distilbert": ("DistilBertForSequenceClassification", "DistilBertConfig", DISTILBERT | TEXT),
    "electra": ("ElectraForSequenceClassification", "ElectraConfig", SIZES | TEXT | {"embedding_size": 16}),
    "electra-wide": ("ElectraForSequenceClassification", "ElectraConfig", SIZES | TEXT | {"embedding_size": 32}),
    "deberta-v2": ("DebertaV2ForSequenceClassification", "DebertaV2Config", SIZES | TEXT | RELATIVE),
    "mpnet": ("MPNetForSequenceClassification", "MPNetConfig", SIZES | TEXT),
    "albert": ("AlbertForSequenceClassification", "AlbertConfig", SIZES | TEXT | {"embedding_size": 16}),
    # Three layers: the first sees all tokens, the others two on either side.
    "modernbert": (
        "ModernBertForSequenceClassification",
        "ModernBertConfig",
        SIZES | TEXT | {"local_attention": 4, "pad_token_id": 1},
    ),
    "vit": ("ViTForImageClassification", "ViTConfig", SIZES | IMAGE),
    "deit": ("DeiTForImageClassification", "DeiTConfig", SIZES | IMAGE),
}
EAGER_ONLY = ("deberta-v2", "mpnet") + (() if transformers.__version__ >= "5" else ("electra", "electra-wide"))


class TextLogits(nn.Module):
    """Token ids, mask and, for most families, segments, all int64 [B, L], to logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor, segments: Tensor | None = None) -> Tensor:
        extra = {} if segments is None else {"token_type_ids": segments}
        return self.model(input_ids=ids, attention_mask=mask, **extra).logits


class ImageLogits(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        return self.model(pixel_values=image).logits


def plain(name: str, *, attention: str = "sdpa", **changes) -> nn.Module:
    """The named family as its library initialises it, reduced to logits."""
    kind, configuration, sizes = FAMILIES[name]
    config = getattr(transformers, configuration)(**sizes | changes)
    config._attn_implementation = "eager" if name in EAGER_ONLY else attention
    wrapper: Callable[[nn.Module], nn.Module] = ImageLogits if "image_size" in sizes else TextLogits
    return wrapper(getattr(transformers, kind)(config)).eval()


def build(name: str, *, attention: str = "sdpa", seed: int = 0) -> nn.Module:
    """With weights so large that every head, channel, bias, norm and padded position tells in the logits."""
    torch.manual_seed(seed)
    model = plain(name, attention=attention)
    for module in model.modules():
        for parameter_name, parameter in module.named_parameters(recurse=False):
            if isinstance(module, nn.LayerNorm) and parameter_name == "weight":
                nn.init.uniform_(parameter, 0.5, 1.5)
            else:
                nn.init.normal_(parameter, std=0.3)
    return model


def inputs(name: str, *, samples: int = 4, tokens: int = 9, seed: int = 1) -> tuple[Tensor, ...]:
    """Rows of different lengths, padded on the right, the first row full; or images."""
    generator = torch.Generator().manual_seed(seed)
    if "image_size" in FAMILIES[name][2]:
        return (torch.randn(samples, 1, 8, 8, generator=generator),)
    ids = torch.randint(3, 50, (samples, tokens), generator=generator)
    lengths = torch.tensor([tokens, *torch.randint(2, tokens, (samples - 1,), generator=generator).tolist()])
    mask = (torch.arange(tokens) < lengths.unsqueeze(1)).long()
    ids = torch.where(mask.bool(), ids, 1)
    if name in ("distilbert", "deberta-v2", "mpnet", "modernbert"):
        return ids, mask
    return ids, mask, (torch.arange(tokens) > tokens // 2).long().expand(samples, -1).contiguous() * (name != "roberta")
