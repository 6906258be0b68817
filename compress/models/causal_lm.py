"""Causal models of transformers (GPT-2, Llama, Qwen2): models that continue a prompt, with or without their weights.

They are driven as encoder-decoders are, and their prompts are padded on the right, as `compress.models.causal` says.
Symbols are in our order, as in `compress.models.published`. Sizes are named N: sequences, S: symbols of a prompt, T:
symbols of a completion, V: symbols there are, P: symbols of the completion that were read.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from compress.config import HubOrFolder
from compress.errors import ModelError
from compress.models.causal import places_of, refuse_long, visible, visible_last
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
from compress.models.writing import BEAM, Beams, Cache, LengthPenalty, joined
from compress.tasks.pieces import load_pieces
from compress.tasks.signature import Signature
from compress.tasks.special import BEGIN
from compress.tasks.task import Task
from compress.tasks.tokenizer import import_transformers
from compress.tasks.transduction import CONTINUING, TransductionTask

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

LAYERS = {"gpt2": "transformer.h", "llama": "model.layers", "qwen2": "model.layers"}  # where families have them


class CausalLM(Model):
    """A causal model of transformers, from a hub id or a local folder with safetensors and a fast tokenizer.

    Attributes:
        path: hub id or folder.
        pretrained: start from the published weights; false builds the architecture from its configuration alone, for as
            many symbols as the task has.
        change: values of the configuration to change, such as ``{n_embd: 64}`` of a model from scratch.
        decoder_layers: how many are kept of the published ones; None keeps all.
        layers: which ones are kept: the ``first``, the ``last``, or ``evenly`` spread ones, the first and the last
            among them (Shleifer and Rush 2020, arXiv 2010.13002, section 3).
        separator: whether the sign of the beginning stands between a prompt and its completion. Published models
            continue the prompt itself; None has a sign where the weights are drawn.
        beams: texts that are followed for each prompt when it is deployed; 1 takes the likeliest symbol each time.
        length_penalty: of such a beam: a text ranks by its log-probability over its length to this power.
        config: used instead of the configuration at ``path``; a stored model has it.
    """

    libraries: ClassVar[tuple[str, ...]] = ("transformers", "tokenizers")

    family: Literal["causal_lm"] = "causal_lm"
    path: Annotated[str, HubOrFolder]
    pretrained: bool = True
    change: dict[str, int | float | str | bool] = Field(default={})
    decoder_layers: Count | None = None
    layers: Spread = "evenly"
    separator: bool | None = None
    beams: Beams = 1
    length_penalty: LengthPenalty = 1.0
    config: dict[str, Any] | None = None

    def model_post_init(self, _context: object) -> None:
        """Refuse published weights for a changed architecture, and layers of a model that has none yet."""
        refuse_unpublished(pretrained=self.pretrained, change=self.change, kept=[self.decoder_layers])

    def build(self, signature: Signature, *, code: Sequence[Path]) -> nn.Module:  # noqa: ARG002
        """Return the model as a plain module that writes.

        Weights are read from safetensors; remote code is never trusted.

        Raises:
            EnvironmentFault: when transformers does not import, or the hub is needed and does not answer.
            ModelError: when there is no such model, it is none of the families, it has an encoder, or the task has
                other symbols than its tokenizer.
        """
        symbols = read_symbols(signature, CONTINUING, family=self.family)
        auto = import_transformers(where=f"model {self.path}").AutoModelForCausalLM
        separated = not self.pretrained if self.separator is None else self.separator
        with told(self.path, kind="a causal model"):
            config = read_configuration(self.path, self.config, self.change, check=self._check_family)
            if not self.pretrained:
                count_symbols(config, symbols)
                with quiet():
                    return CausalLogits(auto.from_config(config, trust_remote_code=False), separated=separated)
            pieces = load_pieces(self.path, continues=True)
            model = load_published(auto, self.path, config)
        table = model.get_input_embeddings()
        assert isinstance(table, nn.Embedding)
        if len(pieces.ids) != symbols:
            raise refuse_symbols(self.path, pieces, got=symbols)
        if max(pieces.ids) >= table.num_embeddings:
            raise ModelError(
                "the tokenizer has tokens that the model does not know",
                expected=f"ids below {table.num_embeddings}",
                got=max(pieces.ids),
                where=f"model {self.path}",
            )
        self._cut(model)
        renumber(model, pieces.ids)
        return CausalLogits(model, separated=separated, ids=pieces.ids)

    def _check_family(self, config: "PreTrainedConfig") -> None:
        if config.model_type not in LAYERS:
            kind = "has an encoder" if config.is_encoder_decoder else "is not known"
            raise ModelError(
                "the model is no causal model that is known",
                expected=f"one of {', '.join(LAYERS)}",
                got=f"{config.model_type}, which {kind}",
                where=f"model {self.path}",
                hint="an encoder-decoder is the family seq2seq, of data with text and target_text",
            )
        if vars(config).get("use_sliding_window"):
            raise ModelError(
                "layers that see no more than a window are not known",
                expected="use_sliding_window: false",
                where=f"model {self.path}",
            )

    def _cut(self, model: "PreTrainedModel") -> None:
        """Keep some layers.

        Raises:
            ModelError: when there are fewer.
        """
        if self.decoder_layers is not None and vars(model.config).get("scale_attn_by_inverse_layer_idx"):
            raise ModelError("layers that know their number cannot be left out", where=str(self))
        path = LAYERS[model.config.model_type]
        keep_some(model, path, self.decoder_layers, how=self.layers, what="model", where=str(self))

    def tell(self, module: nn.Module) -> tuple[str, ...]:
        """Return what its published settings of ``generate`` ask for, where it is not followed."""
        assert isinstance(module, CausalLogits)
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
        """Refuse prompts with completions that are longer than there are positions, and symbols numbered otherwise.

        Raises:
            ModelError: saying which setting to change.
        """
        assert isinstance(module, CausalLogits)
        assert isinstance(task, TransductionTask)
        refuse_long(task, module.model.config.max_position_embeddings, where=where)
        refuse_other_tokenizer(module.ids, task.vocabularies.target, path=self.path, where=where)

    def identity(self, *, code: Sequence[Path] = ()) -> dict[str, Any]:  # noqa: ARG002
        """Replace the path of a folder by the content that is read from it."""
        return identify(self, self.path, pretrained=self.pretrained)

    def strip(self, module: nn.Module) -> Model:
        """Keep the module's configuration and of a folder the name; leave the weights out, the stored ones are read."""
        assert isinstance(module, CausalLogits)
        return CausalLM(
            path=name_of(self.path),
            pretrained=False,
            separator=module.separated,
            config=configuration_of(module.model),
            **self.writing,
        )


class CausalLogits(Logits):
    """Prompt ids [N, S] and completion ids [N, T] to logits [N, T, V]; or step by step, with keys and values kept.

    The symbol after a prompt follows from its last one. So the sign of the beginning stands for that one, unless the
    two are separated: the prompt is read without its last symbol, whose number lies beside keys and values,
    [N, 1, S, 1], until the first step reads it.

    Attributes:
        separated: whether the sign of the beginning is a symbol of its own.
        ids: the tokenizer's, in the order of the rows; None where the weights are none of a tokenizer's.
    """

    absent: Tensor
    """Which symbols the model has not, bool [V]: nothing gives them a probability."""

    def __init__(self, model: "PreTrainedModel", *, separated: bool, ids: tuple[int, ...] | None = None) -> None:
        super().__init__(model)
        self.separated, self.ids = separated, ids
        absent = [False] * model.config.vocab_size if ids is None else [own < 0 for own in ids]
        self.register_buffer("absent", torch.tensor(absent))

    def forward(self, prompt_ids: Tensor, prompt_mask: Tensor, completion_ids: Tensor) -> Tensor:
        """Return the logits of the symbol after each of the completion's, [N, T, V].

        Args:
            prompt_ids: int64 [N, S].
            prompt_mask: int64 [N, S], 0 for padding, which comes last.
            completion_ids: int64 [N, T], the sign of the beginning first; padding comes last and changes nothing before
                it.
        """
        length = completion_ids.shape[1]
        completion, mask = self._continue(completion_ids, prompt_ids, prompt_mask)
        found = self.model.base_model(
            input_ids=torch.cat([prompt_ids, completion], dim=1),
            attention_mask=self._scores(visible(mask, length)),
            position_ids=places_of(mask, length),
            use_cache=False,
            return_dict=True,
        )
        head: Any = self.model.get_output_embeddings()  # of a prompt's symbols no logits are read
        return self._logits(head(found.last_hidden_state[:, prompt_ids.shape[1] :]))

    def encode(self, prompt_ids: Tensor, prompt_mask: Tensor) -> Cache:
        """Return what the layers read of a prompt: keys and values of each, [N, heads, S, size], and then its numbers.

        Args:
            prompt_ids: int64 [N, S].
            prompt_mask: int64 [N, S], 0 for padding, which comes last.
        """
        found = self.model.base_model(
            input_ids=prompt_ids,
            attention_mask=self._scores(visible(prompt_mask, 0)),
            position_ids=places_of(prompt_mask, 0),
            use_cache=True,
            return_dict=True,
        )
        kept = _states(found.past_key_values)
        return kept if self.separated else (*kept, prompt_ids[:, None, :, None].float())

    def step(self, token: Tensor, prompt_mask: Tensor, cross: Cache, past: Cache) -> tuple[Tensor, Cache]:
        """Return the logits of the next symbol, [N, V], and what to give as ``past`` with it.

        Args:
            token: int64 [N, 1], the last symbol; the sign of the beginning at first.
            prompt_mask: int64 [N, S], 0 for padding, which comes last.
            cross: what ``encode`` returned.
            past: keys and values of each layer, [N, heads, P, size]; P is 0 at first.
        """
        width, read = prompt_mask.shape[1], past[0].shape[2]
        numbers = None if self.separated else cross[-1][:, 0, :, 0].long()
        last, mask = self._continue(token, numbers, prompt_mask)
        found = self.model(
            input_ids=last,
            attention_mask=self._scores(visible_last(mask, read + 1)),
            position_ids=mask.sum(dim=1, keepdim=True) + read,
            past_key_values=cache_of(joined(cross[: len(past)], past)),
            use_cache=True,
            return_dict=True,
        )
        present = tuple(part[:, :, width:] for part in _states(found.past_key_values))
        return self._logits(found.logits[:, -1]), present

    def empty_past(self, cross: Cache) -> Cache:
        """Return the keys and values of no symbol, [N, heads, 0, size]."""
        kept = cross if self.separated else cross[:-1]
        return tuple(part[:, :, :0] for part in kept)

    def keep_symbols(self, source: Tensor, target: Tensor) -> None:
        """Keep some symbols, in place, in ascending order; see `Transducer.keep_symbols`.

        Args:
            source: int64, their numbers.
            target: the same: prompts and completions have one table.
        """
        assert torch.equal(source, target)
        renumber(self.model, target.tolist())
        self.absent, self.ids = self.absent[target], None

    def _continue(self, ids: Tensor, prompt_ids: Tensor | None, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return symbols with a prompt's last one for the sign of the beginning, and the mask without that one."""
        if self.separated:
            return ids, mask
        assert prompt_ids is not None
        before = mask.sum(dim=1, keepdim=True) - 1
        shorter = (torch.arange(mask.shape[1], device=mask.device) < before).to(mask.dtype)
        return torch.where(ids == BEGIN, prompt_ids.gather(1, before), ids), shorter

    def _scores(self, seen: Tensor) -> Tensor:
        """Return what is added to scores, [N, 1, L, L]: a mask of four dimensions is taken as it is."""
        dtype = self.model.dtype
        return torch.zeros((), dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)

    def _logits(self, logits: Tensor) -> Tensor:
        """Return logits in which what the model has not is far less likely than anything that it has."""
        return torch.where(self.absent, logits.amin(dim=-1, keepdim=True) - 20, logits)


def layers_of(model: "PreTrainedModel") -> nn.ModuleList:
    """Return the layers of a causal model."""
    found = model.get_submodule(LAYERS[model.config.model_type])
    assert isinstance(found, nn.ModuleList)
    return found


def _states(cache: Any) -> Cache:
    return tuple(part for layer in cache.layers for part in (layer.keys, layer.values))
