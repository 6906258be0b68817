"""Encoder-decoders of transformers (Marian, T5, BART): models that write, with or without their weights.

Tasks that write number symbols in a way of their own: padding, begin, end and unknown first. So rows of embeddings and
of the output layer are brought into that order when a model is built, and everything after it knows one numbering.
Sizes are named N: sequences, S: source length, T: target length, V: target symbols, P: target symbols already read.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from compress.config import HubOrFolder
from compress.errors import CompressError, EnvironmentFault, ModelError
from compress.models.external import LIBRARY_ERRORS
from compress.models.huggingface import Logits, first_line, hub_is_silent, list_drawn, quiet
from compress.models.layer_lists import Which, keep_layers, spread
from compress.models.spec import Model, read_symbols
from compress.store.digest import hash_file, hash_values
from compress.tasks.pieces import Pieces, load_pieces
from compress.tasks.signature import Signature
from compress.tasks.special import BEGIN, END, PAD
from compress.tasks.task import Problem, Task
from compress.tasks.tokenizer import import_transformers
from compress.tasks.transduction import ANSWERING, TransductionTask

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

FAMILIES = ("marian", "t5", "mt5", "bart", "mbart")  # whose layers and caches we know
READ = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
Cache = tuple[Tensor, ...]  # keys and values, layer by layer
Count = Annotated[int, Field(ge=1, le=1000)]


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
    layers: Which = "evenly"
    beams: Annotated[int, Field(ge=1, le=64)] = 1
    length_penalty: Annotated[float, Field(ge=0, le=10)] = 1.0
    config: dict[str, Any] | None = None

    def model_post_init(self, _context: object) -> None:
        """Refuse published weights for a changed architecture, and layers of a model that has none yet."""
        if self.pretrained and self.change:
            raise ValueError("published weights fit the published configuration; set pretrained: false to change it")
        if not self.pretrained and (self.encoder_layers or self.decoder_layers):
            raise ValueError("layers are kept of published weights; of a model from scratch, change its configuration")

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
            if count is None:
                continue
            if count > len(layers):
                raise ModelError(
                    f"the {side} has fewer layers", expected=f"at most {len(layers)}", got=count, where=str(self)
                )
            path = next(path for path, part in model.named_modules() if part is layers)
            keep_layers(model, path, spread(len(layers), count, how=self.layers))

    @property
    def writing(self) -> Mapping[str, Any]:
        """Its beam."""
        return {"beams": self.beams, "length_penalty": self.length_penalty}

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
            if module.ids is not None and (not isinstance(side, Pieces) or side.ids != module.ids):
                raise ModelError(
                    "the model's weights are of another tokenizer than the task's",
                    expected="the tokenizer of the teacher",
                    got=f"that of {self.path}",
                    where=where,
                )

    def identity(self, *, code: Sequence[Path] = ()) -> dict[str, Any]:  # noqa: ARG002
        """Replace the path of a folder by the content that is read from it."""
        return identify(self, self.path, pretrained=self.pretrained)

    def strip(self, module: nn.Module) -> Model:
        """Keep the module's configuration and of a folder the name; leave the weights out, the stored ones are read."""
        assert isinstance(module, Seq2SeqLogits)
        kept = {"beams": self.beams, "length_penalty": self.length_penalty}
        return Seq2Seq(path=name_of(self.path), pretrained=False, config=configuration_of(module.model), **kept)

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
        # Of the encoder's output only the shape is read, because keys and values are there.
        hidden = cross[0].new_zeros(token.shape[0], source_mask.shape[1], self.model.config.d_model)
        found = self.model(
            attention_mask=self.prepare(source_mask),
            decoder_input_ids=token,
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


@contextmanager
def told(path: str, *, kind: str) -> Iterator[None]:
    """Turn what transformers raises inside the block into an error of ours.

    Raises:
        EnvironmentFault: when the hub is needed and does not answer.
        ModelError: when the model cannot be built.
    """
    try:
        yield
    except CompressError:
        raise
    except LIBRARY_ERRORS as error:
        if hub_is_silent(error):
            raise EnvironmentFault(
                "the Hugging Face hub cannot be reached, and the model was not downloaded before",
                got=first_line(error),
                where=f"model {path}",
                hint="check the network, or give a local folder as path",
            ) from error
        raise ModelError(
            "transformers cannot build the model",
            expected=f"the hub id or folder of {kind} with safetensors weights",
            got=first_line(error),
            where=f"model {path}",
        ) from error


def load_published(auto: Any, path: str, config: "PreTrainedConfig") -> "PreTrainedModel":
    """Return a published model in float32, read from safetensors; remote code is never trusted.

    Args:
        auto: transformers' class of such models.
        path: hub id or folder.
        config: of the model.

    Raises:
        ModelError: when a layer has no weight there.
    """
    with quiet():
        model, loaded = auto.from_pretrained(
            path,
            config=config,
            dtype=torch.float32,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    if missing := list_drawn(loaded):
        raise ModelError(
            "the weights do not fit the model",
            expected="a weight for every layer",
            got=f"none, or another shape, for {len(missing)} of them: {', '.join(missing[:4])}",
            where=f"model {path}",
        )
    return model


def refuse_symbols(path: str, pieces: Pieces, *, got: object) -> ModelError:
    """Return the refusal of a task whose symbols are not those of a published model's tokenizer."""
    return ModelError(
        "the task has other symbols than the model's tokenizer",
        expected=f"{len(pieces.ids)} symbols to read and to write",
        got=got,
        where=f"model {path}",
        hint="leave data.symbols out, and name its tokenizer: data.tokenize.tokenizer",
    )


def read_configuration(
    path: str, config: Mapping[str, Any] | None, change: Mapping[str, Any], *, check: Callable[[Any], None]
) -> "PreTrainedConfig":
    """Return a configuration, changed, for a model in float32 whose attention can be exported.

    Args:
        path: hub id or folder.
        config: used instead of what is there.
        change: values to change.
        check: refuses another kind of model, before anything is changed.

    Raises:
        ModelError: when there is no such value, or ``check`` says so.
    """
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if config is not None:
        found = CONFIG_MAPPING[config["model_type"]].from_dict(dict(config))
    else:
        found = AutoConfig.from_pretrained(path, trust_remote_code=False)
    check(found)
    for name, value in change.items():
        if not hasattr(found, name):
            known = sorted(key for key in found.to_dict() if not key.startswith("_"))
            raise ModelError("no such value of the configuration", expected=", ".join(known), got=name)
        setattr(found, name, value)
    found._attn_implementation = "eager"  # one form in every version, which can be exported
    found.dtype = torch.float32
    return found


def identify(model: Model, path: str, *, pretrained: bool) -> dict[str, Any]:
    """Return a description's fields with the content that is read of a folder in place of its path."""
    fields, folder = model.model_dump(mode="json"), Path(path)
    if not folder.is_dir():
        return fields
    weights = sorted(folder.glob("*.safetensors*")) if pretrained else []
    files = [path for path in (*(folder / name for name in READ), *weights) if path.is_file()]
    return fields | {"path": hash_values({path.name: hash_file(path) for path in files})}


def configuration_of(model: "PreTrainedModel") -> dict[str, Any]:
    """Return a model's configuration as JSON values, without what is of this machine, and code that does not ship."""
    config = json.loads(model.config.to_json_string(use_diff=False))
    return {name: value for name, value in config.items() if name not in ("_name_or_path", "auto_map")}


def name_of(path: str) -> str:
    """Return what a folder is called; a hub id as it is."""
    return Path(path).name if Path(path).is_dir() else path


def layers_of(model: "PreTrainedModel", side: str) -> nn.ModuleList:
    """Return the layers of the encoder or the decoder."""
    stack = model.get_encoder() if side == "encoder" else model.get_decoder()
    found = dict(stack.named_children())
    layers = found["block"] if "block" in found else found["layers"]
    assert isinstance(layers, nn.ModuleList)
    return layers


def renumber(model: "PreTrainedModel", ids: Sequence[int]) -> None:
    """Bring the rows of embeddings and of the output layer into another order, in place; what is shared stays shared.

    Args:
        model: an encoder-decoder.
        ids: which row each of the new ones is; -1 for one that nothing stands for, which becomes that of the padding,
            or of the end where there is none.
    """
    spare = ids[PAD] if ids[PAD] >= 0 else ids[END]
    rows = torch.tensor([spare if own < 0 else own for own in ids])
    fresh: dict[int, nn.Parameter] = {}
    before = [*_tables(model)]
    olds = [table.weight for table in before]  # kept, so that no other tensor gets the id of one
    for table, old in zip(before, olds, strict=True):
        table.weight = fresh.setdefault(id(old), nn.Parameter(old.detach()[rows].clone()))
        if isinstance(table, nn.Linear):
            table.out_features = len(rows)
        else:
            table.num_embeddings = len(rows)
            table.padding_idx = None if table.padding_idx is None else PAD
    bias = dict(model.named_buffers()).get("final_logits_bias")
    if bias is not None:
        model.register_buffer("final_logits_bias", bias[:, rows].clone())
    count_symbols(model.config, len(rows))


def _tables(model: "PreTrainedModel") -> Iterator[nn.Embedding | nn.Linear]:
    """Yield the layers of a model that have a row for each symbol, each once."""
    found = (
        model.get_input_embeddings(),
        *(layer for name, layer in model.named_modules() if name.rpartition(".")[2] in ("shared", "embed_tokens")),
        model.get_output_embeddings(),
    )
    seen: set[int] = set()
    for layer in found:
        assert isinstance(layer, nn.Embedding | nn.Linear)
        if id(layer) not in seen:
            seen.add(id(layer))
            yield layer


def count_symbols(config: "PreTrainedConfig", count: int) -> None:
    """Say in a configuration how many symbols there are, and which of them are the special ones."""
    told = {"vocab_size": count, "decoder_vocab_size": count, "pad_token_id": PAD, "bos_token_id": BEGIN}
    told |= {"decoder_start_token_id": BEGIN, "eos_token_id": END, "forced_eos_token_id": None}
    for name, value in told.items():
        if hasattr(config, name) or name == "decoder_start_token_id":
            setattr(config, name, value)


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


def cache_of(states: Cache) -> Any:
    """Return keys and values, layer by layer, as transformers keeps them."""
    from transformers.cache_utils import DynamicCache

    found = DynamicCache()
    for layer in range(len(states) // 2):
        found.update(states[2 * layer], states[2 * layer + 1], layer)
    return found
