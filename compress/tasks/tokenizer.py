"""Text to token ids: a Hugging Face fast tokenizer, and its output for a whole role at once."""

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from compress.config import HubOrFolder, Values
from compress.data.samples import Samples
from compress.errors import EnvironmentFault, ModelError
from compress.tasks.patterns import check_patterns, given_up

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CONTENT = "tokenizer.json"
FILES = (CONTENT, "tokenizer_config.json", "special_tokens_map.json")  # what loads it again


def import_transformers(*, where: str) -> ModuleType:
    """Return the transformers library.

    Args:
        where: what asks for it, for the message.

    Raises:
        EnvironmentFault: when it does not import.
    """
    try:
        import transformers
    except (ImportError, RuntimeError) as error:
        raise EnvironmentFault(
            "transformers does not import", got=error, where=where, hint="pip install 'compress-onnx[hf]'"
        ) from error
    return transformers


class Tokenize(Values):
    """How text becomes tokens.

    Attributes:
        tokenizer: hub id or folder of a fast tokenizer; None takes the teacher's.
        max_length: tokens of a sample, special ones included; what is longer is cut at its end, counted and reported.
    """

    tokenizer: Annotated[str | None, HubOrFolder] = None
    max_length: Annotated[int, Field(ge=4, le=100_000)] = 256


@dataclass(frozen=True)
class Encoded:
    """The tokens of a role, one sample after the other.

    Attributes:
        ids: int32 [tokens].
        types: int8 [tokens], which of two texts a token belongs to.
        words: int32 [tokens], the word that a token is the first of; -1 for all others.
        starts: int64 [N + 1], where each sample begins and the last one ends.
        truncated: samples that were cut.
    """

    ids: NDArray[np.int32]
    types: NDArray[np.int8]
    words: NDArray[np.int32]
    starts: NDArray[np.int64]
    truncated: int

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each sample, int64 [N]."""
        return np.diff(self.starts)

    def split(self) -> list[NDArray[np.int32]]:
        """Return the ids of each sample."""
        return np.split(self.ids, self.starts[1:-1])

    def pad(
        self, values: NDArray[Any], index: NDArray[np.integer], *, fill: int
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return a token-wise array of some samples, [B, longest], and which entries are theirs."""
        lengths = self.lengths[index]
        valid = np.arange(lengths.max()) < lengths[:, None]
        table = np.full(valid.shape, fill, np.int64)
        table[valid] = np.concatenate([values[self.starts[row] : self.starts[row + 1]] for row in index])
        return table, valid


class Tokenizer:
    """A fast tokenizer with a length limit; it remembers what it has encoded.

    Attributes:
        pad_id: the padding token's id; -1 where there is none.
        size: one more than the largest id.
        begin_id: the id of the beginning of a sequence; None where it has none.
        end_id: the id of the end of a sequence; None where it has none.
        unknown_id: the id of what is not among its tokens; None where there is no such thing.
        takes_types: whether models of this tokenizer tell two texts apart by token types.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerFast", *, max_length: int, padded: bool = True) -> None:
        if not tokenizer.is_fast:
            raise ModelError(
                "the tokenizer has no fast form",
                expected="a folder or hub id with tokenizer.json",
                got=type(tokenizer).__name__,
                hint="convert it: AutoTokenizer.from_pretrained(path, use_fast=True).save_pretrained(folder)",
            )
        if not isinstance(tokenizer.pad_token_id, int) and padded:
            raise ModelError("the tokenizer has no padding token", got=type(tokenizer).__name__)
        tokenizer.model_max_length = max_length
        self._tokenizer = tokenizer
        self._encoded: dict[tuple[str, bool], Encoded] = {}
        self.max_length = max_length
        self.pad_id = tokenizer.pad_token_id if isinstance(tokenizer.pad_token_id, int) else -1
        self.size = max(tokenizer.get_vocab().values()) + 1
        special = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id)
        self.begin_id, self.end_id, self.unknown_id = (own if isinstance(own, int) else None for own in special)
        self.takes_types = _takes_types(tokenizer)

    @classmethod
    def load(cls, path: str, *, max_length: int, words: bool = False, padded: bool = True) -> "Tokenizer":
        """Return the tokenizer of a hub id or folder; code that comes with it is never run.

        Args:
            path: hub id or folder.
            max_length: tokens of a sample, special ones included.
            words: whether samples will be sequences of words. Byte-level tokenizers that know a word's beginning by
                the space before it then put one there, as in running text.
            padded: whether it has to have a token for padding.

        Raises:
            EnvironmentFault: when transformers does not import.
            ModelError: when there is none there.
        """
        transformers = import_transformers(where=path)
        try:
            options: dict[str, bool] = {"add_prefix_space": True} if words else {}
            with given_up():
                found = transformers.AutoTokenizer.from_pretrained(path, trust_remote_code=False, **options)
                return cls(found, max_length=max_length, padded=padded)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(
                "there is no tokenizer",
                expected="a hub id, or a folder with tokenizer.json",
                got=f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}",
                where=path,
                hint="name one under data.tokenize.tokenizer",
            ) from error

    @classmethod
    def from_files(cls, files: Mapping[str, str], *, max_length: int) -> "Tokenizer":
        """Return the tokenizer that these files hold; see ``files``."""
        with tempfile.TemporaryDirectory() as directory:
            for name, text in files.items():
                (Path(directory) / name).write_text(text, encoding="utf-8")
            return cls.load(directory, max_length=max_length)

    def files(self) -> Mapping[str, str]:
        """Return the text files that load it again, by name; ``tokenizer.json`` cuts at the length limit."""
        with tempfile.TemporaryDirectory() as directory:
            self._tokenizer.save_pretrained(directory)
            found = {name: (Path(directory) / name) for name in FILES}
            texts = {name: path.read_text(encoding="utf-8") for name, path in found.items() if path.exists()}
        limit = {"direction": "Right", "max_length": self.max_length, "strategy": "LongestFirst", "stride": 0}
        content = json.loads(texts[CONTENT]) | {"truncation": limit, "padding": None}
        texts[CONTENT] = json.dumps(content, ensure_ascii=False)
        return texts

    @property
    def digest(self) -> str:
        """SHA-256 of how it splits, its vocabulary and its limit."""
        content = json.loads(self._tokenizer.backend_tokenizer.to_str()) | {"truncation": None, "padding": None}
        return hashlib.sha256(f"{json.dumps(content, sort_keys=True)}{self.max_length}".encode()).hexdigest()

    def encode(self, samples: Samples, *, words: bool) -> Encoded:
        """Return the tokens of a role.

        Args:
            samples: texts, pairs of texts, or sequences of words.
            words: whether the samples are sequences of words.

        Raises:
            ModelError: when a regular expression of the tokenizer's own does not come to an end on them.
        """
        key = (samples.digest, words)
        if key not in self._encoded:
            inputs = samples.array.tolist()
            check_patterns(self._tokenizer.backend_tokenizer.to_str(), inputs)
            self._encoded[key] = self._encode(inputs, words=words)
        return self._encoded[key]

    def _encode(self, inputs: Sequence[Any], *, words: bool) -> Encoded:
        texts: list[Any] = [list(entry) if words or not isinstance(entry, str) else entry for entry in inputs]
        pairs = None
        if not words and texts and not isinstance(texts[0], str):
            texts, pairs = [first for first, _ in texts], [second for _, second in texts]
        found = self._tokenizer(
            texts,
            pairs,
            truncation=True,
            max_length=self.max_length,
            is_split_into_words=words,
            return_attention_mask=False,
            verbose=False,
        ).encodings
        assert found is not None
        firsts = np.concatenate([_first_tokens(entry.word_ids) for entry in found]) if words else np.zeros(0)
        return Encoded(
            ids=np.concatenate([np.array(entry.ids, np.int32) for entry in found]),
            types=np.concatenate([np.array(entry.type_ids, np.int8) for entry in found]),
            words=firsts.astype(np.int32),
            starts=np.cumsum([0, *(len(entry.ids) for entry in found)]).astype(np.int64),
            truncated=sum(1 for entry in found if entry.overflowing),
        )


def _takes_types(tokenizer: "PreTrainedTokenizerFast") -> bool:
    """Whether models of a tokenizer tell two texts apart by types: as it says, or else if it marks the second text.

    A class of no named family says nothing, and that of ALBERT forgets in transformers 5 what its models learnt with.
    """
    from transformers import PreTrainedTokenizerFast

    if "token_type_ids" in tokenizer.model_input_names:
        return True
    silent = type(tokenizer) is PreTrainedTokenizerFast or type(tokenizer).__name__ == "AlbertTokenizer"
    if "model_input_names" in tokenizer.init_kwargs or not silent:
        return False
    return any(tokenizer.backend_tokenizer.encode("a", "a").type_ids)


def _first_tokens(words: Sequence[int | None]) -> NDArray[np.int32]:
    """Return each token's word where the token is the word's first, else -1."""
    found = np.full(len(words), -1, np.int32)
    seen = -1
    for position, word in enumerate(words):
        if word is not None and word > seen:
            found[position], seen = word, word
    return found
