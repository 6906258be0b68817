"""Encoder-decoders of transformers (Marian, T5, BART): models that write, with or without their weights.

Symbols are in our order, as in `compress.models.published`. Sizes are named N: sequences, S: source length, T: target
length, V: target symbols, P: target symbols already read.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from compress.config import HubOrFolder
from compress.errors import ModelError
from compress.models.huggingface import Logits, quiet
from compress.models.layer_lists import Count, Spread
from compress.models.published import (
    cache_of,
    configuration_of,
    count_symbols,
    identify,
    keep_some,
    load_published,
    name_of,
    read_configuration,
    refuse_other_tokenizer,
    refuse_symbols,
    refuse_unpublished,
    renumber,
    tell_unfollowed,
    told,
)
from compress.models.spec import Model, read_symbols
from compress.models.writing import BEAM, Beams, Cache, LengthPenalty
from compress.tasks.pieces import load_pieces
from compress.tasks.signature import Signature
from compress.tasks.task import Problem, Task
from compress.tasks.tokenizer import import_transformers
from compress.tasks.transduction import ANSWERING, TransductionTask

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

FAMILIES = ("marian", "t5", "mt5", "bart", "mbart")  # whose layers and caches we know


class Seq2Seq(Model):
    """An encoder-decoder of transformers, from a hub id or a local folder with safetensors and a fast tokenizer.

    Attributes:
        path: hub id or folder.
        pretrained: start from the published weights; false builds the architecture from its configuration alone, for as
            many symbols as the task has.
        change: values of the configuration to change, such as ``{d_model: 64}`` of a model from scratch.
        encoder_layers: how many are kept of the published ones; None keeps all.
        decoder_layers: likewise of the decoder, which runs once for each symbol.
        layers: which ones are kept: the ``first``, the ``last``, or ``evenly`` spread ones, the first and the last
            among them (Shleifer and Rush 2020, arXiv 2010.13002, section 3).
        beams: texts that are followed for each source when it is deployed; 1 takes the likeliest symbol each time.
        length_penalty: of such a beam: a text ranks by its log-probability over its length to this power.
        config: used instead of the configuration at ``path``; a stored model has it.
    """

    libraries: ClassVar[tuple[str, ...]] = ("transformers", "tokenizers")

    family: Literal["seq2seq"] = "seq2seq"
    path: Annotated[str, HubOrFolder]
    pretrained: bool = True
    change: dict[str, int | float | str | bool] = Field(default={})
    encoder_layers: Count | None = None
    decoder_layers: Count | None = None
    layers: Spread = "evenly"
    beams: Beams = 1
    length_penalty: LengthPenalty = 1.0
    config: dict[str, Any] | None = None

    def model_post_init(self, _context: object) -> None:
        """Refuse published weights for a changed architecture, and layers of a model that has none yet."""
        kept = (self.encoder_layers, self.decoder_layers)
        refuse_unpublished(pretrained=self.pretrained, change=self.change, kept=kept)

    def build(self, signature: Signature, *, code: Sequence[Path]) -> nn.Module:  # noqa: ARG002
        """Return the model as a plain module that writes.

        Weights are read from safetensors; remote code is never trusted.

        Raises:
            EnvironmentFault: when transformers does not import, or the hub is needed and does not answer.
            ModelError: when there is no such model, it is none of the families, it is no encoder-decoder, or the task
                has other symbols than its tokenizer.
        """
        source = read_symbols(signature, ANSWERING, family=self.family)
        auto = import_transformers(where=f"model {self.path}").AutoModelForSeq2SeqLM
        target = len(signature.classes)
        with told(self.path, kind="an encoder-decoder"):
            config = self._configuration()
            if not self.pretrained:
                count_symbols(config, max(source, target))
                with quiet():
                    return Seq2SeqLogits(auto.from_config(config, trust_remote_code=False), target)
            pieces = load_pieces(self.path)
            model = load_published(auto, self.path, config)
        if len(pieces.ids) != source or source != target:
            raise refuse_symbols(self.path, pieces, got=f"{source} and {target}")
        self._cut(model)
        renumber(model, pieces.ids)
        return Seq2SeqLogits(model, target, ids=pieces.ids)

    def _configuration(self) -> "PreTrainedConfig":
        """Return the configuration, changed.

        Raises:
            ModelError: when it is that of another kind of model, or has no such value.
        """

        def check(found: "PreTrainedConfig") -> None:
            if not found.is_encoder_decoder or found.model_type not in FAMILIES:
                raise ModelError(
                    "the model is no encoder-decoder that is known",
                    expected=f"one of {', '.join(FAMILIES)}",
                    got=f"{found.model_type}, which {'is one' if found.is_encoder_decoder else 'has no encoder'}",
                    where=f"model {self.path}",
                    hint="a causal model is the family causal_lm, of data with prompt and completion",
                )

        return read_configuration(self.path, self.config, self.change, check=check)

    def _cut(self, model: "PreTrainedModel") -> None:
        """Keep some layers of either side, with what the first one of T5 has for all of them.

        Raises:
            ModelError: when there are fewer.
        """
        counts = {"encoder": self.encoder_layers, "decoder": self.decoder_layers}
        for side, count in counts.items():
            layers = layers_of(model, side)
            path = next(path for path, part in model.named_modules() if part is layers)
            keep_some(model, path, count, how=self.layers, what=side, where=str(self))

    def tell(self, module: nn.Module) -> tuple[str, ...]:
        """Return what its published settings of ``generate`` ask for, where it is not followed."""
        assert isinstance(module, Seq2SeqLogits)
        if not self.pretrained:
            return ()
        return tell_unfollowed(module.model, beams=self.beams, length_penalty=self.length_penalty)

    @property
    def writing(self) -> Mapping[str, Any]:
        """Its beam."""
        return self.model_dump(include={*BEAM})

    @property
    def published(self) -> bool:
        """Whether it starts from the weights of the hub or folder."""
        return self.pretrained

    def check(self, module: nn.Module, task: Task, *, where: object) -> None:
        """Refuse sequences that are longer than there are positions, and symbols that are numbered otherwise.

        Raises:
            ModelError: saying which setting to change.
        """
        assert isinstance(module, Seq2SeqLogits)
        assert isinstance(task, TransductionTask)
        positions = module.max_positions
        if positions is not None and task.max_length > positions:
            raise ModelError(
                "the model has too few positions",
                expected=f"max_length {positions} or less",
                got=task.max_length,
                where=where,
                hint=f"set data.tokenize.max_length: {positions}",
            )
        for side in (task.vocabularies.source, task.vocabularies.target):
            refuse_other_tokenizer(module.ids, side, path=self.path, where=where)

    def identity(self, *, code: Sequence[Path] = ()) -> dict[str, Any]:  # noqa: ARG002
        """Replace the path of a folder by the content that is read from it."""
        return identify(self, self.path, pretrained=self.pretrained)

    def strip(self, module: nn.Module) -> Model:
        """Keep the module's configuration and of a folder the name; leave the weights out, the stored ones are read."""
        assert isinstance(module, Seq2SeqLogits)
        config = configuration_of(module.model)
        return Seq2Seq(path=name_of(self.path), pretrained=False, config=config, **self.writing)

    def files(
        self,
        signature: Signature,  # noqa: ARG002
        *,
        problem: Problem,  # noqa: ARG002
        preprocessing: Mapping[str, Any],  # noqa: ARG002
    ) -> Mapping[str, str]:
        """Return ``config.json``, of the numbers that symbols have here; how it writes is said by its program."""
        if self.config is None:
            return {}
        from transformers import GenerationConfig

        written = vars(GenerationConfig()).keys() - SPECIAL_IDS
        told = {name: value for name, value in self.config.items() if name not in written}
        return {"config.json": json.dumps(told, indent=1)}


SPECIAL_IDS = frozenset({"pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"})


class Seq2SeqLogits(Logits):
    """Source ids [N, S] and target ids [N, T] to logits [N, T, V]; or step by step, with keys and values kept.

    Attributes:
        symbols: V, of which embeddings may have more.
        ids: the tokenizer's, in the order of the rows; None where the weights are none of a tokenizer's.
    """

    def __init__(self, model: "PreTrainedModel", symbols: int, *, ids: tuple[int, ...] | None = None) -> None:
        super().__init__(model)
        self.symbols, self.ids = symbols, ids

    @property
    def max_positions(self) -> int | None:
        """How many symbols it can read; None when positions are only told apart relative to each other."""
        config = self.model.config
        return None if config.model_type in ("t5", "mt5") else config.max_position_embeddings

    def forward(self, source_ids: Tensor, source_mask: Tensor, target_ids: Tensor) -> Tensor:
        """Return the logits of the symbol after each of the target's, [N, T, V].

        Args:
            source_ids: int64 [N, S].
            source_mask: int64 [N, S], 0 for padding.
            target_ids: int64 [N, T], the sign of the beginning first; padding comes last and changes nothing before it.
        """
        found = self.model(
            input_ids=source_ids,
            attention_mask=self.prepare(source_mask),
            decoder_input_ids=target_ids,
            use_cache=False,
            return_dict=True,
        )
        return found.logits[..., : self.symbols]

    def encode(self, source_ids: Tensor, source_mask: Tensor) -> Cache:
        """Return what the decoder's layers read of a source: keys and values of each, [N, heads, S, size].

        Args:
            source_ids: int64 [N, S].
            source_mask: int64 [N, S], 0 for padding.
        """
        encoder, seen = self.model.get_encoder(), self.prepare(source_mask)
        hidden = encoder(input_ids=source_ids, attention_mask=seen, return_dict=True).last_hidden_state
        return tuple(part for layer in layers_of(self.model, "decoder") for part in _project(layer, hidden))

    def step(self, token: Tensor, source_mask: Tensor, cross: Cache, past: Cache) -> tuple[Tensor, Cache]:
        """Return the logits of the next symbol, [N, V], and what to give as ``past`` with it.

        Args:
            token: int64 [N, 1], the last symbol; the sign of the beginning at first.
            source_mask: int64 [N, S], 0 for padding.
            cross: what ``encode`` returned.
            past: keys and values of each layer, [N, heads, P, size]; P is 0 at first.
        """
        from transformers.cache_utils import EncoderDecoderCache

        cache = EncoderDecoderCache(cache_of(past), cache_of(cross))
        for layer in range(len(cross) // 2):
            cache.is_updated[layer] = True
        # One symbol sees all before it. Without a mask transformers 4 traces one that is a position too long.
        seen = cross[0].new_zeros(1, 1, 1, past[0].shape[2] + 1)
        # Of the encoder's output only the shape is read, because keys and values are there.
        hidden = cross[0].new_zeros(token.shape[0], source_mask.shape[1], self.model.config.d_model)
        found = self.model(
            attention_mask=self.prepare(source_mask),
            decoder_input_ids=token,
            decoder_attention_mask=seen,
            encoder_outputs=(hidden,),
            past_key_values=cache,
            use_cache=True,
            return_dict=True,
        )
        layers = found.past_key_values.self_attention_cache.layers
        present = tuple(part for layer in layers for part in (layer.keys, layer.values))
        return found.logits[:, -1, : self.symbols], present

    def empty_past(self, cross: Cache) -> Cache:
        """Return the keys and values of no symbol, [N, heads, 0, size]; of each layer's own number of heads."""
        read = (_keys_and_values(layer, "self") for layer in layers_of(self.model, "decoder"))
        shapes = [(len(cross[0]), part.out_features // size, 0, size) for *parts, size in read for part in parts]
        return tuple(cross[0].new_zeros(shape) for shape in shapes)

    def keep_symbols(self, source: Tensor, target: Tensor) -> None:
        """Keep some symbols, in place, in ascending order; see `Transducer.keep_symbols`.

        Args:
            source: int64, their numbers.
            target: the same, because both sides have one table.
        """
        assert torch.equal(source, target)
        renumber(self.model, target.tolist())
        self.symbols, self.ids = len(target), None

    @property
    def reader(self) -> tuple[nn.Module, ...]:
        """What reads a source, without what the decoder's layers make of it; embeddings may be the decoder's, too."""
        return (self.model.get_encoder(),)


def layers_of(model: "PreTrainedModel", side: str) -> nn.ModuleList:
    """Return the layers of the encoder or the decoder."""
    stack = model.get_encoder() if side == "encoder" else model.get_decoder()
    found = dict(stack.named_children())
    layers = found["block"] if "block" in found else found["layers"]
    assert isinstance(layers, nn.ModuleList)
    return layers


def _project(layer: nn.Module, hidden: Tensor) -> Cache:
    """Return keys and values of a decoder's layer for the encoder's output, [N, heads, S, size] each."""
    keys, values, size = _keys_and_values(layer, "cross")
    key, value = (part(hidden).unflatten(-1, (-1, size)).transpose(1, 2) for part in (keys, values))
    return key, value


def _keys_and_values(layer: nn.Module, of: Literal["self", "cross"]) -> tuple[nn.Linear, nn.Linear, int]:
    """Return what projects keys and values in an attention of a decoder's layer, and the size of a head."""
    if "layer" in dict(layer.named_children()):  # T5 and its kin
        found: Any = layer.get_submodule("layer.0.SelfAttention" if of == "self" else "layer.1.EncDecAttention")
        return found.k, found.v, found.key_value_proj_dim
    found = layer.get_submodule("self_attn" if of == "self" else "encoder_attn")
    return found.k_proj, found.v_proj, found.head_dim
