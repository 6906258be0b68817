"""Fewer tokens: a tokenizer's files without the tokens that nobody needs, renumbered.

Texts whose tokens are all kept are split exactly as before:

* WordPiece takes the longest known piece at every place, and no longer one has come.
* Unigram takes the likeliest split, which is still there and has no new rival.
* BPE makes merges in the order of their ranks. Every merge on the way to a kept token is kept, so each step of the
  original derivation is still the first one that can be made.

Words with a token that is gone become shorter kept pieces, down to single characters, which are always kept; what has
no such pieces becomes the unknown token.
"""

import json
import re
from collections.abc import Collection, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from compress.errors import ModelError

BYTE = re.compile("<0x[0-9A-F]{2}>")  # what stands for a byte of a character that has no piece
CONTENT, CONFIG = "tokenizer.json", "tokenizer_config.json"
Merge = str | tuple[str, str]  # the two parts, which older files write as one string


class Splitter(BaseModel):
    """What is read of ``model`` in ``tokenizer.json``: the pieces, and how words are split into them.

    Attributes:
        type: ``WordPiece``, ``BPE`` or ``Unigram``.
        vocab: ids by piece, or for Unigram pieces with their scores, by id.
        merges: of BPE, by rank.
        continuing_subword_prefix: of pieces within a word.
        end_of_word_suffix: of pieces at a word's end.
        byte_fallback: whether characters without a piece become pieces for their bytes.
        unk_id: of the unknown piece, for Unigram.
        unk_token: the unknown piece, for the others.
    """

    model_config = ConfigDict(frozen=True)

    type: str
    vocab: dict[str, int] | list[tuple[str, int | float]]
    merges: list[Merge] = []
    continuing_subword_prefix: str | None = None
    end_of_word_suffix: str | None = None
    byte_fallback: bool | None = None
    unk_id: int | None = None
    unk_token: str | None = None

    @cached_property
    def id_of(self) -> dict[str, int]:
        """The ids by piece."""
        if isinstance(self.vocab, dict):
            return self.vocab
        return {piece: number for number, (piece, _) in enumerate(self.vocab)}

    def always(self) -> set[int]:
        """Return the ids of single characters, of pieces for bytes, and of the unknown piece."""
        prefix, suffix = self.continuing_subword_prefix or "", self.end_of_word_suffix or ""
        kept = {
            number for piece, number in self.id_of.items() if len(piece.removeprefix(prefix).removesuffix(suffix)) <= 1
        }
        if self.byte_fallback:
            kept |= {number for piece, number in self.id_of.items() if BYTE.fullmatch(piece)}
        unknown = self.unk_id
        if self.type != "Unigram" and self.unk_token is not None:
            unknown = self.id_of.get(self.unk_token)
        return kept if unknown is None else {*kept, unknown}

    def join(self, merge: Merge) -> str:
        """Return what a merge makes of its two parts; the second loses the prefix of pieces within a word."""
        first, second = _pair(merge)
        return first + second.removeprefix(self.continuing_subword_prefix or "")

    def on_the_way(self, kept: Collection[int]) -> set[int]:
        """Return the ids of all tokens that merges go through on the way to the kept ones."""
        made_of: dict[str, list[tuple[str, str]]] = {}
        for merge in self.merges:
            made_of.setdefault(self.join(merge), []).append(_pair(merge))
        piece_of = {number: piece for piece, number in self.id_of.items()}
        waiting = [piece_of[number] for number in kept if number in piece_of]
        found: set[int] = set()
        while waiting:
            piece = waiting.pop()
            if self.id_of[piece] not in found:
                found.add(self.id_of[piece])
                waiting += [part for parts in made_of.get(piece, []) for part in parts if part in self.id_of]
        return found

    def renumber(self, new_of: Mapping[int, int]) -> dict[str, Any]:
        """Return the entries of ``model`` that change when only these ids stay."""
        if not isinstance(self.vocab, dict):
            vocab = [entry for number, entry in enumerate(self.vocab) if number in new_of]
            return {"vocab": vocab, "unk_id": None if self.unk_id is None else new_of[self.unk_id]}
        left = {piece: new_of[number] for piece, number in self.vocab.items() if number in new_of}
        if self.type != "BPE":
            return {"vocab": left}
        return {"vocab": left, "merges": [merge for merge in self.merges if self.join(merge) in left]}


class Added(BaseModel):
    """What is read of an added token, such as ``[CLS]``."""

    id: int


class Content(BaseModel):
    """What is read of ``tokenizer.json``."""

    model: Splitter
    added_tokens: list[Added]
    post_processor: dict[str, Any] | None = None


def keep_tokens(files: Mapping[str, str], wanted: Collection[int]) -> tuple[dict[str, str], NDArray[np.int64]]:
    """Return a tokenizer's files with fewer tokens, and the old id of every new one, int64, ascending.

    Args:
        files: ``tokenizer.json`` and its companions, as `Tokenizer.files` returns them.
        wanted: ids to keep; special tokens, single characters and what BPE needs on the way are kept besides.

    Raises:
        ModelError: when the kind of tokenizer is not known.
    """
    written = json.loads(files[CONTENT])
    kind = written.get("model", {}).get("type")
    if kind not in ("WordPiece", "BPE", "Unigram"):
        raise ModelError("no such tokenizer can lose tokens", expected="WordPiece, BPE or Unigram", got=kind)
    content = Content.model_validate(written)
    kept = {*wanted, *(token.id for token in content.added_tokens), *content.model.always()}
    if kind == "BPE":
        kept |= content.model.on_the_way(kept)
    old = np.array(sorted(kept), np.int64)
    new_of = {int(number): position for position, number in enumerate(old)}
    changed: dict[str, Any] = {
        "model": written.get("model") | content.model.renumber(new_of),
        "added_tokens": [
            token | {"id": new_of[added.id]}
            for token, added in zip(written.get("added_tokens"), content.added_tokens, strict=True)
        ],
    }
    if content.post_processor:
        changed["post_processor"] = _renumber(content.post_processor, new_of)
    found = {**files, CONTENT: json.dumps(written | changed, ensure_ascii=False)}
    if CONFIG in found:
        found[CONFIG] = _configure(found[CONFIG], new_of)
    return found, old


def _pair(merge: Merge) -> tuple[str, str]:
    """Return the two parts of a merge."""
    first, second = merge.split(" ") if isinstance(merge, str) else merge
    return first, second


def _configure(text: str, new_of: Mapping[int, int]) -> str:
    """Return ``tokenizer_config.json`` with the new ids of added tokens."""
    config = json.loads(text)
    decoder = config.get("added_tokens_decoder", {})
    if decoder:
        config |= {"added_tokens_decoder": {str(new_of[int(number)]): token for number, token in decoder.items()}}
    return json.dumps(config, ensure_ascii=False)


def _renumber(processor: Mapping[str, Any], new_of: Mapping[int, int]) -> dict[str, Any]:
    """Return a post-processor whose special tokens have their new ids."""
    changed: dict[str, Any] = {}
    for name in ("sep", "cls"):
        if isinstance(processor.get(name), list):
            token, number = processor[name]
            changed[name] = [token, new_of[number]]
    special = processor.get("special_tokens")
    if isinstance(special, dict):
        changed["special_tokens"] = {
            name: token | {"ids": [new_of[number] for number in token["ids"]]} for name, token in special.items()
        }
    if "processors" in processor:
        changed["processors"] = [_renumber(inner, new_of) for inner in processor.get("processors", [])]
    return {**processor, **changed}
