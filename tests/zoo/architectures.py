"""The zoo: architectures as strangers write them, each with an example of two samples."""

from collections.abc import Callable

import convolutional as c
import sequential as s
import torch
from torch import Tensor, nn

Kind = str
Example = tuple[Tensor, ...]


def _draw(kind: Kind) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    shapes = {
        "image": (8, 3, 16, 16),
        "video": (8, 3, 8, 8, 8),
        "signal": (8, 20, 6),
        "channels": (8, 6, 20),
        "table": (8, 12),
        "numbers": (8, 6),
        "adjacency": (8, 20, 20),
    }
    if kind == "words":
        return torch.randint(0, 30, (8, 12), generator=generator)
    if kind == "categories":
        return torch.randint(0, 7, (8, 2), generator=generator)
    return torch.randn(shapes[kind], generator=generator)


IMAGES: dict[str, Callable[[], nn.Module]] = {
    "LeNet of a tutorial, view(-1, 64)": c.LeNetTutorial,
    "MNIST example, flatten and dropout": c.FlattenTutorial,
    "view(x.size(0), -1)": c.ViewBySize,
    "all convolutions": c.all_convolutional,
    "VGG": c.vgg,
    "AlexNet": c.alexnet,
    "ResNet-18": c.resnet18,
    "ResNet-50": c.resnet50,
    "ResNeXt": c.resnext,
    "Wide ResNet": c.wide_resnet,
    "SE-ResNet": c.se_resnet,
    "CBAM": c.cbam_resnet,
    "ECA-Net": c.eca_resnet,
    "ResNet, pre-activation": c.preact_resnet,
    "ResNet for CIFAR, padded shortcuts": c.cifar_resnet_option_a,
    "ResNet, GroupNorm": c.group_norm_resnet,
    "ResNet, GroupNorm of one group": c.one_group_resnet,
    "ResNet, InstanceNorm": c.instance_norm_resnet,
    "InstanceNorm without parameters": c.plain_instance_norm,
    "PReLU, one parameter": c.prelu_one,
    "PReLU, one a channel": c.prelu_many,
    "DenseNet": c.DenseNet,
    "MobileNet v1": c.mobilenet_v1,
    "MobileNet v2": c.mobilenet_v2,
    "MobileNet v3": c.mobilenet_v3,
    "EfficientNet": c.efficientnet,
    "MnasNet": c.mnasnet,
    "ShuffleNet v1": c.shufflenet_v1,
    "ShuffleNet v2": c.shufflenet_v2,
    "nn.ChannelShuffle": c.shuffle_module,
    "RegNet": c.regnet,
    "Inception": lambda: c.GoogLeNet(aux=False),
    "GoogLeNet, auxiliary head": lambda: c.GoogLeNet(aux=True),
    "SqueezeNet": c.squeezenet,
    "ConvNeXt of torchvision": c.convnext_torchvision,
    "ConvNeXt of its paper": c.convnext_paper,
    "ConvNeXt v2": c.convnext_v2,
    "ConvMixer": c.convmixer,
    "bare parameters that scale and shift": c.bare_scales,
    "FixUp": c.fixup,
    "stochastic depth": c.stochastic_depth,
    "weight_norm, old": c.old_weight_norm,
    "weight_norm, parametrization": c.new_weight_norm,
    "spectral_norm, old": c.old_spectral_norm,
    "spectral_norm, parametrization": c.new_spectral_norm,
    "a parametrization of one's own": c.own_parametrization,
    "standardized convolutions": c.standardized_convolutions,
    "U-Net, transposed convolution": c.UNetClassifier,
    "U-Net, upsampled": c.UNetUpsampled,
    "PixelShuffle": c.pixel_shuffle,
    "PixelUnshuffle": c.pixel_unshuffle,
    "dilated convolutions": c.dilated,
    "ASPP": c.Aspp,
    "Highway": c.Highway,
    "Maxout": c.Maxout,
    "GLU on maps": c.GatedConv,
    "simple gate (NAFNet)": c.ChunkGate,
    "capsules": c.Capsules,
    "shared and tied convolutions": c.TiedConvolutions,
    "OctConv": c.Octave,
    "Res2Net": c.Res2Net,
    "CSP (YOLO's C2f)": c.Csp,
    "GhostNet": c.ghostnet,
    "RepVGG": c.repvgg,
    "SKNet": c.SelectiveKernel,
    "non-local block": c.NonLocal,
    "bilinear pooling": c.bilinear,
    "CoordConv": c.coordinates,
    "antialiased (BlurPool)": c.fixed_blur,
    "statistics pooling": c.statistics_pooling,
    "cosine head": c.cosine_head,
    "ViT of timm": s.vit_timm,
    "DeiT": s.deit,
    "CaiT (LayerScale)": s.cait,
    "ViT, SwiGLU": s.vit_swiglu,
    "ViT, packed SwiGLU": s.vit_packed_swiglu,
    "ViT, GEGLU": s.vit_geglu,
    "ViT of vit-pytorch": s.MinGpt,
    "attention written out": s.SeparateHeads,
    "nn.MultiheadAttention on maps": s.AttentionPool,
    "MLP-Mixer": s.Mixer,
    "gMLP": s.GatedMlp,
    "ResMLP": s.ResMlp,
    "Swin": s.Swin,
    "Swin, biases by relative position": s.PublishedSwin,
    "nn.TransformerDecoder over maps": s.TorchDecoder,
    "MobileViT": s.MobileVit,
    "PoolFormer": s.PoolFormer,
}
OTHERS: dict[str, tuple[Callable[[], nn.Module], tuple[Kind, ...]]] = {
    "siamese": (c.Siamese, ("image", "image")),
    "image and numbers": (c.TwoStreams, ("image", "numbers")),
    "3-D convolutions": (c.video, ("video",)),
    "nn.TransformerEncoder, post-norm": (s.encoder_post_norm, ("words",)),
    "nn.TransformerEncoder, pre-norm": (s.encoder_pre_norm, ("words",)),
    "nn.TransformerEncoder, sequence first": (s.SequenceFirst, ("words",)),
    "Llama-like": (s.Llama, ("words",)),
    "Llama, by modules": (s.llama_by_modules, ("words",)),
    "Llama, grouped queries": (s.llama_grouped_queries, ("words",)),
    "Llama, one key head": (s.llama_one_key_head, ("words",)),
    "Llama, normalised queries and keys": (s.llama_normalised_queries, ("words",)),
    "Perceiver, cross-attention": (s.Perceiver, ("signal",)),
    "nn.MultiheadAttention, keys of another sequence": (s.DecoderBlock, ("signal",)),
    "nn.MultiheadAttention, keys of another width": (s.decoder_other_width, ("signal",)),
    "LSTM": (s.lstm, ("signal",)),
    "GRU": (s.gru, ("signal",)),
    "LSTM, two layers, both directions": (s.stacked_bidirectional_lstm, ("signal",)),
    "DeepConvLSTM": (s.ConvLstm, ("signal",)),
    "GRU over words": (s.GruWords, ("words",)),
    "TextCNN": (s.TextCnn, ("words",)),
    "mean of embeddings": (s.EmbeddingBag, ("words",)),
    "TCN": (s.Tcn, ("signal",)),
    "WaveNet": (s.WaveNet, ("signal",)),
    "1-D convolutions": (s.signal_cnn, ("channels",)),
    "1-D depthwise convolutions": (s.depthwise_signals, ("channels",)),
    "MLP": (s.mlp_table, ("table",)),
    "MLP, LayerNorm": (s.mlp_layer_norm, ("table",)),
    "categories and numbers": (s.Categories, ("table", "categories")),
    "deep and cross": (s.CrossNet, ("table",)),
    "mixture of experts": (s.Experts, ("table",)),
    "tied autoencoder": (s.TiedAutoencoder, ("table",)),
    "tied embeddings": (s.TiedEmbedding, ("words",)),
    "graph convolution": (s.GraphConvolution, ("signal", "adjacency")),
    "PointNet": (s.PointNet, ("signal",)),
}
ZOO: dict[str, tuple[Callable[[], nn.Module], tuple[Kind, ...]]] = {
    **{name: (build, ("image",)) for name, build in IMAGES.items()},
    **OTHERS,
}


def build(name: str, *, seed: int = 0) -> tuple[nn.Module, Example]:
    """The named network, with statistics and affine parameters that are not the identity, and 8 samples for it."""
    torch.manual_seed(seed)
    maker, kinds = ZOO[name]
    model = maker()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None:
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval(), tuple(_draw(kind) for kind in kinds)
