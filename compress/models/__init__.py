"""Model families, and the pickle-free format in which a reshaped model is stored."""

from typing import Annotated

from pydantic import BeforeValidator, Field

from compress.config import one_key
from compress.models.causal import CausalTransformer, DecoderOnly
from compress.models.causal_lm import CausalLM
from compress.models.cnn import Cnn
from compress.models.external import Timm, TorchVision, UserFile
from compress.models.huggingface import HuggingFace
from compress.models.mlp import Mlp
from compress.models.mobilenet import MobileNet
from compress.models.resnet import ResNet
from compress.models.seq2seq import Seq2Seq
from compress.models.spec import Model
from compress.models.structure import describe, load_model, load_structure, save_model
from compress.models.transducer import EncoderDecoder, Transducer
from compress.models.weights import load_weights

AnyModel = Annotated[
    Annotated[
        CausalLM
        | Cnn
        | DecoderOnly
        | EncoderDecoder
        | HuggingFace
        | Mlp
        | MobileNet
        | ResNet
        | Seq2Seq
        | Timm
        | TorchVision
        | UserFile,
        Field(discriminator="family"),
    ],
    BeforeValidator(one_key("family")),
]

__all__ = [
    "AnyModel",
    "CausalLM",
    "CausalTransformer",
    "Cnn",
    "DecoderOnly",
    "EncoderDecoder",
    "HuggingFace",
    "Mlp",
    "MobileNet",
    "Model",
    "ResNet",
    "Seq2Seq",
    "Timm",
    "TorchVision",
    "Transducer",
    "UserFile",
    "describe",
    "load_model",
    "load_structure",
    "load_weights",
    "save_model",
]
