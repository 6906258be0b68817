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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.errors import ModelError

BYTE = re.compile("<0x[0-9A-F]{2}>")  # what stands for a byte of a character that has no piece


def keep_tokens(files: Mapping[str, str], wanted: Collection[int]) -> tuple[dict[str, str], NDArray[np.int64]]:
    """Return a tokenizer's files with fewer tokens, and the old id of every new one, int64, ascending.

    Args:
        files: ``tokenizer.json`` and its companions, as `Tokenizer.files` returns them.
        wanted: ids to keep; special tokens, single characters and what BPE needs on the way are kept besides.

    Raises:
        ModelError: when the kind of tokenizer is not known.
    """
    content = json.loads(files["tokenizer.json"])
    model = content["model"]
    if model["type"] not in ("WordPiece", "BPE", "Unigram"):
        raise ModelError("no such tokenizer can lose tokens", expected="WordPiece, BPE or Unigram", got=model["type"])
    id_of: dict[str, int] = (
        {piece: number for number, (piece, _) in enumerate(model["vocab"])}
        if model["type"] == "Unigram"
        else dict(model["vocab"])
    )
    kept = {*wanted, *(token["id"] for token in content["added_tokens"])}
    prefix = model.get("continuing_subword_prefix") or ""
    suffix = model.get("end_of_word_suffix") or ""
    kept |= {number for piece, number in id_of.items() if len(piece.removeprefix(prefix).removesuffix(suffix)) <= 1}
    if model.get("byte_fallback"):
        kept |= {number for piece, number in id_of.items() if BYTE.fullmatch(piece)}
    if model["type"] == "Unigram" and model.get("unk_id") is not None:
        kept.add(model["unk_id"])
    elif model.get("unk_token") in id_of:
        kept.add(id_of[model["unk_token"]])
    if model["type"] == "BPE":
        kept |= _on_the_way(model, id_of, kept)
    old = np.array(sorted(kept), np.int64)
    new_of = {int(number): position for position, number in enumerate(old)}
    if model["type"] == "Unigram":
        model["vocab"] = [entry for number, entry in enumerate(model["vocab"]) if number in new_of]
        model["unk_id"] = None if model.get("unk_id") is None else new_of[model["unk_id"]]
    else:
        model["vocab"] = {piece: new_of[number] for piece, number in id_of.items() if number in new_of}
    if model["type"] == "BPE":
        model["merges"] = [merge for merge in model["merges"] if _merged(merge, prefix) in model["vocab"]]
    for token in content["added_tokens"]:
        token["id"] = new_of[token["id"]]
    if content.get("post_processor"):
        _renumber(content["post_processor"], new_of)
    found = {**files, "tokenizer.json": json.dumps(content, ensure_ascii=False)}
    if "tokenizer_config.json" in found:
        config = json.loads(found["tokenizer_config.json"])
        decoder = config.get("added_tokens_decoder", {})
        if decoder:
            config["added_tokens_decoder"] = {str(new_of[int(number)]): token for number, token in decoder.items()}
        found["tokenizer_config.json"] = json.dumps(config, ensure_ascii=False)
    return found, old


def _pair(merge: Any) -> tuple[str, str]:
    """Return the two parts of a merge, which older files write as one string."""
    first, second = merge.split(" ") if isinstance(merge, str) else merge
    return first, second


def _merged(merge: Any, prefix: str) -> str:
    """Return what a merge makes of its two parts; the second loses the prefix of pieces within a word."""
    first, second = _pair(merge)
    return first + second.removeprefix(prefix)


def _on_the_way(model: Mapping[str, Any], id_of: Mapping[str, int], kept: Collection[int]) -> set[int]:
    """Return the ids of all tokens that merges go through on the way to the kept ones."""
    prefix = model.get("continuing_subword_prefix") or ""
    made_of: dict[str, list[tuple[str, str]]] = {}
    for merge in model["merges"]:
        made_of.setdefault(_merged(merge, prefix), []).append(_pair(merge))
    piece_of = {number: piece for piece, number in id_of.items()}
    waiting = [piece_of[number] for number in kept if number in piece_of]
    found: set[int] = set()
    while waiting:
        piece = waiting.pop()
        if id_of[piece] not in found:
            found.add(id_of[piece])
            waiting += [part for parts in made_of.get(piece, []) for part in parts if part in id_of]
    return found


def _renumber(processor: dict[str, Any], new_of: Mapping[int, int]) -> None:
    """Give the special tokens of a post-processor their new ids, in place."""
    for name in ("sep", "cls"):
        if isinstance(processor.get(name), list):
            processor[name][1] = new_of[processor[name][1]]
    special = processor.get("special_tokens")
    for token in special.values() if isinstance(special, dict) else ():
        token["ids"] = [new_of[number] for number in token["ids"]]
    for inner in processor.get("processors", []):
        _renumber(inner, new_of)
