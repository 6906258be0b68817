"""Pieces of words by number: what a tokenizer of the library tokenizers makes of texts that are read and written."""

import re
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from compress.config import Values
from compress.errors import ModelError
from compress.tasks.ragged import Ragged
from compress.tasks.special import END, SPECIAL, UNKNOWN
from compress.tasks.tokenizer import CONTENT, Tokenizer
from compress.tasks.vocabulary import keep_tokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend


MAX_LENGTH = 100_000  # of the tokenizer itself; a task has a limit of its own


class BytePairs(Values):
    """Pieces of words that occur often, found on train by merging pairs (Sennrich et al. 2016, arXiv 1508.07909).

    They begin with single bytes, so that any text can be read and written.

    Attributes:
        bpe: how many there are at most, bytes and the four special ones among them.
    """

    bpe: Annotated[int, Field(ge=300, le=1_000_000)]


@dataclass(frozen=True)
class Pieces:
    """The pieces of one side, each with a number from 4 on; see `compress.tasks.symbols.Vocabulary`.

    Attributes:
        tokenizer: as its ``tokenizer.json``.
        ids: the tokenizer's own, in the order of our numbers; -1 for a special one that it has not.
        continues: whether a text that is written continues one that is read, as with causal models: nothing is put
            before it, and its first space is one of its symbols.
        first: our number of what every text that is written begins with, such as the sign of its language; None where
            texts begin as the tokenizer has them.
    """

    tokenizer: str = field(repr=False)
    ids: tuple[int, ...] = field(repr=False)
    continues: bool = False
    first: int | None = None

    @classmethod
    def train(cls, texts: Iterable[str], *, size: int) -> Self:
        """Return byte pairs of some texts, at most ``size``, special ones among them."""
        from tokenizers import Tokenizer as Backend
        from tokenizers import decoders, models, pre_tokenizers, trainers

        found, alphabet = Backend(models.BPE()), sorted(pre_tokenizers.ByteLevel.alphabet())
        found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)  # a word is the same at the beginning
        found.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=size - len(SPECIAL), initial_alphabet=alphabet, special_tokens=[], show_progress=False
        )
        found.train_from_iterator(texts, trainer)
        return cls(found.to_str(), (*[-1] * len(SPECIAL), *range(found.get_vocab_size())))

    @classmethod
    def of_tokenizer(cls, tokenizer: Tokenizer, *, begin: int, forced: int | None = None) -> Self:
        """Return the pieces of the tokenizer of an encoder-decoder.

        Args:
            tokenizer: sets the end after a text by itself, or does not.
            begin: the id that a decoder reads first.
            forced: the id that it is made to write first; None where it is free.

        Raises:
            ModelError: when it has no end of a sequence.
        """
        end, unknown = _end_of(tokenizer), tokenizer.unknown_id
        special = (tokenizer.pad_id, begin, end, -1 if unknown is None else unknown)
        found = cls(tokenizer.files()[CONTENT], (*special, *_others(tokenizer, special)))
        if forced is None or found.encode_all([""], special=True)[0][:1] == [found.ids.index(forced)]:
            return found  # as BART: what begins each text is written as its other symbols are
        return replace(found, first=found.ids.index(forced))

    @classmethod
    def of_causal(cls, tokenizer: Tokenizer) -> Self:
        """Return the pieces of the tokenizer of a causal model, whose special tokens are often one and the same.

        Args:
            tokenizer: sets a beginning before a text by itself, or does not.

        Raises:
            ModelError: when it has no end of a sequence, or sets one after every prompt.
        """
        end = _end_of(tokenizer)
        own = {end}
        special: list[int] = []
        for found in (tokenizer.pad_id, tokenizer.begin_id, tokenizer.unknown_id):
            special.append(-1 if found is None or found in own else found)
            own.add(special[-1])
        pad, begin, unknown = special
        ids = (pad, begin, end, unknown)
        made = cls(tokenizer.files()[CONTENT], (*ids, *_others(tokenizer, ids)), continues=True)
        if made.encode_all(["a"], special=True)[0][-1:] == [END]:
            raise ModelError(
                "the tokenizer sets an end of a sequence after every text, and nothing could continue a prompt",
                expected="a tokenizer that adds no end by itself",
                where="data.tokenize.tokenizer",
                hint="set its add_eos_token: false and save it, or give an encoder-decoder text and target_text",
            )
        return made

    @property
    def kind(self) -> str:
        """As files call it."""
        return "pieces"

    @cached_property
    def _tokenizer(self) -> "Backend":
        from tokenizers import Tokenizer as Backend

        found = Backend.from_str(self.tokenizer)
        found.no_padding()
        found.no_truncation()
        return found

    @cached_property
    def _numbers(self) -> dict[int, int]:
        # Where two special ones share an id, the later one is meant in a text: the end, not the beginning.
        return {own: number for number, own in enumerate(self.ids)}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of all numbers, the special ones first."""
        return (*SPECIAL, *(self._tokenizer.id_to_token(own) or "" for own in self.ids[len(SPECIAL) :]))

    @cached_property
    def signs(self) -> "re.Pattern[str] | None":
        """What finds a sign of the tokenizer's, such as that of an end, in a text; None where it has none."""
        found = [entry.content for entry in self._tokenizer.get_added_tokens_decoder().values() if entry.special]
        return re.compile("|".join(map(re.escape, found))) if found else None

    def encode_all(self, texts: Sequence[str], *, special: bool = False) -> list[list[int]]:
        """Return the numbers of texts to be written, without the end.

        Args:
            texts: any.
            special: with what the tokenizer puts around a text, its end among it.
        """
        # A tokenizer may choose other pieces where it sets an end; one of a causal model sets a beginning at most.
        bare = self.continues or self.first is not None
        found = self._tokenizer.encode_batch([*texts], add_special_tokens=special or not bare)
        numbers = [[self._numbers.get(own, UNKNOWN) for own in entry.ids] for entry in found]
        if special:
            return numbers
        first = [self.first] if self.first is not None else []
        # What is behind the end, as the sign of a language is in mBART's, is for texts that are read.
        return [[*first, *(row[: row.index(END)] if END in row else row)] for row in numbers]

    def encode(self, text: str) -> list[int]:
        """Return the numbers of a text to be written, without the end."""
        return self.encode_all([text])[0]

    def read(self, texts: Sequence[str], *, most: int) -> Ragged:
        """Return the numbers of texts to be read; of one that is cut the end stays, where the tokenizer sets one."""
        found = self.encode_all(texts, special=True)
        return Ragged.of(found, most=most, last=END if found and found[0][-1:] == [END] else None)

    def decode(self, numbers: Iterable[int]) -> str:
        """Return the text of some numbers, without the special ones."""
        own = [self.ids[number] for number in numbers if number >= UNKNOWN]
        text = self._tokenizer.decode([number for number in own if number >= 0])
        return text if self.continues else text.strip()

    def split(self, text: str) -> list[str]:
        """Return what is counted when a text is judged: its words."""
        return text.split()

    def spell(self, numbers: Iterable[int]) -> list[str]:
        """Return what is counted when written numbers are judged: the words of their text."""
        return self.decode(numbers).split()

    def keep(self, wanted: Collection[int]) -> tuple[Self, NDArray[np.int64]]:
        """Return the pieces of some numbers, and the number before of each number after, int64, ascending.

        Special ones stay, and those that the tokenizer needs besides; see `keep_tokens`. Texts of kept pieces alone are
        split as before.
        """
        special = self.ids[: len(SPECIAL)]
        always = [*range(len(SPECIAL)), *([] if self.first is None else [self.first])]
        own = {self.ids[number] for number in (*wanted, *always) if self.ids[number] >= 0}
        files, before = keep_tokens({CONTENT: self.tokenizer}, own)
        new_of = {int(found): position for position, found in enumerate(before)}
        others = [found for found in self.ids[len(SPECIAL) :] if found in new_of]
        ids = (*(new_of.get(found, -1) for found in special), *(new_of[found] for found in others))
        old = np.array([*range(len(SPECIAL)), *(self._numbers[found] for found in others)], np.int64)
        first = None if self.first is None else ids.index(new_of[self.ids[self.first]])
        return type(self)(files[CONTENT], ids, self.continues, first), old

    def dump(self) -> dict[str, Any]:
        """Return it as JSON values."""
        told = {"kind": self.kind, "tokenizer": self.tokenizer, "ids": [*self.ids]}
        first = {} if self.first is None else {"first": self.first}
        return told | ({"continues": True} if self.continues else {}) | first


def _end_of(tokenizer: Tokenizer) -> int:
    if tokenizer.end_id is None:
        raise ModelError(
            "the tokenizer has no end of a sequence, and a model could not say that it is done",
            expected="an eos_token",
            got="none",
            where="data.tokenize.tokenizer",
        )
    return tokenizer.end_id


def _others(tokenizer: Tokenizer, special: Sequence[int]) -> list[int]:
    return [own for own in range(tokenizer.size) if own not in special]


def load_pieces(path: str, *, continues: bool = False) -> Pieces:
    """Return the pieces of the tokenizer that lies beside an encoder-decoder, or beside a causal model.

    Args:
        path: hub id or folder of the model, with ``config.json`` and a fast tokenizer.
        continues: whether what is written continues what is read.

    Raises:
        EnvironmentFault: when transformers does not import.
        ModelError: when there is no tokenizer, it has no end of a sequence, or nothing says how a decoder begins, or
            of several languages which one it writes.
    """
    if continues:
        return Pieces.of_causal(Tokenizer.load(path, max_length=MAX_LENGTH, padded=False))
    tokenizer = Tokenizer.load(path, max_length=MAX_LENGTH)
    from transformers import AutoConfig, GenerationConfig

    told: list[Any] = [AutoConfig.from_pretrained(path, trust_remote_code=False)]
    with suppress(OSError):  # older models have it in their configuration
        told.append(GenerationConfig.from_pretrained(path))
    names = ("decoder_start_token_id", "bos_token_id")  # the second where there is no first, as transformers has it
    begins = [found for name in names for config in told if (found := vars(config).get(name)) is not None]
    if not begins:
        raise ModelError(
            "nothing says how the model's decoder begins",
            expected="decoder_start_token_id in config.json or generation_config.json",
            where=path,
        )
    forced = [found for config in told if (found := vars(config).get("forced_bos_token_id")) is not None]
    if told[0].model_type == "mbart" and begins[0] == tokenizer.end_id and not forced:
        raise ModelError(
            "nothing says in which language the model writes",
            expected="forced_bos_token_id, the id of its sign, in generation_config.json",
            where=path,
            hint="the language that is read is the tokenizer's: src_lang in tokenizer_config.json",
        )
    return Pieces.of_tokenizer(tokenizer, begin=begins[0], forced=forced[0] if forced else None)
