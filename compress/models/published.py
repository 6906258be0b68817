"""Models of transformers that write, whatever their kind: where they come from, and their rows brought into our order.

Tasks that write number symbols in a way of their own: padding, begin, end and unknown first. So rows of embeddings and
of the output layer are brought into that order when a model is built, and everything after it knows one numbering.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from compress.errors import CompressError, EnvironmentFault, ModelError
from compress.models.external import LIBRARY_ERRORS
from compress.models.huggingface import first_line, hub_is_silent, list_drawn, quiet
from compress.models.layer_lists import Spread, keep_layers, spread
from compress.models.spec import Model
from compress.models.writing import Cache
from compress.store.digest import hash_file, hash_values
from compress.tasks.pieces import Pieces
from compress.tasks.special import BEGIN, END, PAD

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

# Of a generation_config: what we do in our own way or is told apart, and what is read by sampling alone.
OURS = frozenset(
    {
        "max_length",
        "max_new_tokens",
        "num_beams",
        "length_penalty",
        "early_stopping",
        "use_cache",
        "cache_implementation",
    }
    | {"num_return_sequences", "renormalize_logits", "transformers_version", "low_memory", "disable_compile"}
)
SAMPLING = frozenset({"temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"})
NEUTRAL = (None, False, 0, 1, [], {})  # values that ask for nothing
READ = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def refuse_unpublished(*, pretrained: bool, change: Mapping[str, Any], kept: Sequence[int | None]) -> None:
    """Refuse published weights for a changed architecture, and layers of a model that has none yet.

    Args:
        pretrained: whether the weights are the published ones.
        change: of the configuration.
        kept: how many layers of each side are to be kept, where it is said.
    """
    if pretrained and change:
        raise ValueError("published weights fit the published configuration; set pretrained: false to change it")
    if not pretrained and any(kept):
        raise ValueError("layers are kept of published weights; of a model from scratch, change its configuration")


def refuse_other_tokenizer(ids: Sequence[int] | None, side: object, *, path: str, where: object) -> None:
    """Refuse a task whose symbols are numbered otherwise than a model's rows.

    Args:
        ids: the tokenizer's in the order of the model's rows; None where they are none of a tokenizer's.
        side: the task's vocabulary of what is read or written.
        path: of the model.
        where: named in the message.

    Raises:
        ModelError: when they differ.
    """
    if ids is not None and (not isinstance(side, Pieces) or side.ids != ids):
        raise ModelError(
            "the model's weights are of another tokenizer than the task's",
            expected="the tokenizer of the teacher",
            got=f"that of {path}",
            where=where,
        )


def keep_some(model: nn.Module, path: str, count: int | None, *, how: Spread, what: str, where: str) -> None:
    """Keep some layers of a list of them, in place; None keeps all.

    Args:
        model: of transformers.
        path: of the list.
        count: how many are kept.
        how: which ones.
        what: has them, for the message.
        where: named in the message.

    Raises:
        ModelError: when there are fewer.
    """
    if count is None:
        return
    there = len([*model.get_submodule(path).children()])
    if count > there:
        raise ModelError(f"the {what} has fewer layers", expected=f"at most {there}", got=count, where=where)
    keep_layers(model, path, spread(there, count, how=how))


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


def tell_unfollowed(model: "PreTrainedModel", *, beams: int, length_penalty: float) -> tuple[str, ...]:
    """Return a line about what ``generate`` of transformers would do otherwise, as its generation_config asks for it.

    A published model is often scored with such settings; without them it writes other texts.

    Args:
        model: with its generation_config.
        beams: texts that are followed here.
        length_penalty: of such a beam.
    """
    config = model.generation_config
    assert config is not None
    asked = {name: value for name, value in config.to_diff_dict().items() if value is True or value not in NEUTRAL}
    if asked.get("bad_words_ids") == [[config.pad_token_id]]:  # padding is never written here
        del asked["bad_words_ids"]
    unread = OURS if asked.get("do_sample") else OURS | SAMPLING
    found = {name: value for name, value in asked.items() if name not in unread and not name.endswith("_token_id")}
    found = {name: value for name, value in found.items() if not name.startswith(("_", "output_", "return_"))}
    if (config.num_beams or 1) != beams:
        found["num_beams"] = config.num_beams or 1
    if beams > 1 and config.length_penalty not in (None, length_penalty):
        found["length_penalty"] = config.length_penalty
    if not found:
        return ()
    told = ", ".join(f"{name} {value}" for name, value in sorted(found.items()))
    how = f"beams: {beams}" + (f", length_penalty: {length_penalty:g}" if beams > 1 else "")
    return (f"its generation_config asks for {told}; here it writes with {how}, and is scored so",)


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


def renumber(model: "PreTrainedModel", ids: Sequence[int]) -> None:
    """Bring the rows of embeddings and of the output layer into another order, in place; what is shared stays shared.

    Args:
        model: any that writes.
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


def cache_of(states: Cache) -> Any:
    """Return keys and values, layer by layer, as transformers keeps them."""
    from transformers.cache_utils import DynamicCache

    found = DynamicCache()
    for layer in range(len(states) // 2):
        found.update(states[2 * layer], states[2 * layer + 1], layer)
    return found
