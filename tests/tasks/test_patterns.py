"""A tokenizer's own regular expressions end, or are refused; nothing waits for them."""

import json
import re

import numpy as np
import pytest
import text_zoo

from compress.data import Samples
from compress.errors import ModelError
from compress.tasks import patterns
from compress.tasks.tokenizer import Tokenizer


def samples(*texts: str) -> Samples:
    return Samples(text_zoo.objects(texts), np.zeros(len(texts), np.int64))


@pytest.fixture
def cutting(tmp_path):
    """Return a function from a regular expression, where it stands and how it is used to a tokenizer."""

    def make(pattern: str, place: str) -> Tokenizer:
        path = text_zoo.make_tokenizer(tmp_path) / "tokenizer.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        regex = {"Regex": pattern}
        content["normalizer"], content["pre_tokenizer"] = {
            "pre_tokenizer": (None, {"type": "Split", "pattern": regex, "behavior": "Isolated", "invert": False}),
            "normalizer": ({"type": "Replace", "pattern": regex, "content": " "}, content["pre_tokenizer"]),
        }[place]
        path.write_text(json.dumps(content), encoding="utf-8")
        return Tokenizer.load(str(tmp_path), max_length=16)

    return make


@pytest.mark.parametrize("place", ["pre_tokenizer", "normalizer"])
def test_a_pattern_that_gives_up_is_named(cutting, place):
    tokenizer = cutting("(a+)+$", place)
    with pytest.raises(ModelError, match=r"(?s)come to an end.*retry-limit.*\(a\+\)\+\$"):
        tokenizer.encode(samples("a" * 40 + "!"), words=False)


def test_a_pattern_without_end_is_ended(cutting, monkeypatch):
    monkeypatch.setattr(patterns, "LEAST_S", 1.0)
    tokenizer = cutting("a*a*a*b", "pre_tokenizer")
    with pytest.raises(ModelError, match=r"(?s)come to an end.*after 2 s.*a\*a\*a\*b"):
        tokenizer.encode(samples("a" * 10_000 + "!b"), words=False)


def test_a_pattern_that_ends_cuts_as_it_always_did(cutting):
    encoded = cutting(r"\w+", "pre_tokenizer").encode(samples("good film", "bad"), words=False)
    assert len(encoded.split()) == 2


@pytest.mark.parametrize(("pattern", "limit_s"), [("(a+)+$", 60), ("a*a*a*b", 2), ("(?:xy|x|y)*q", 60)])
def test_a_pattern_from_anybody_is_tried_on_texts_that_are_made_to_tire_it(cutting, monkeypatch, pattern, limit_s):
    monkeypatch.setattr(patterns, "LEAST_S", limit_s)
    monkeypatch.setattr(patterns, "CHARACTERS_PER_S", 1_000_000)
    tokenizer = cutting(pattern, "pre_tokenizer")._tokenizer.backend_tokenizer.to_str()
    with pytest.raises(ModelError, match=r"(?s)come to an end.*" + re.escape(pattern)):
        patterns.check_hostile(tokenizer)


GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


@pytest.mark.parametrize("pattern", [GPT2, r"\w+|[^\w\s]+", r"\s+$", "[.!?]+"])
def test_patterns_as_tokenizers_have_them_pass(cutting, pattern):
    patterns.check_hostile(cutting(pattern, "pre_tokenizer")._tokenizer.backend_tokenizer.to_str())


def test_what_is_no_tokenizer_is_told(cutting):
    content = json.loads(cutting("a+", "pre_tokenizer")._tokenizer.backend_tokenizer.to_str())
    with pytest.raises(ModelError, match="cannot be read"):
        patterns.check_hostile(json.dumps(content | {"model": {"type": "none"}}))


def test_tokenizers_without_patterns_of_their_own_are_not_tried(tmp_path, monkeypatch):
    monkeypatch.setattr(patterns.subprocess, "run", None)
    for make in (text_zoo.make_tokenizer, text_zoo.make_byte_bpe):
        tokenizer = Tokenizer.load(str(make(tmp_path / make.__name__)), max_length=16)
        assert tokenizer.encode(samples("good film"), words=False).ids.size


def test_a_panic_of_the_library_is_an_error_of_ours(cutting):
    backend = cutting("(a+)+$", "pre_tokenizer")._tokenizer.backend_tokenizer
    with pytest.raises(ModelError, match="retry-limit"), patterns.given_up():
        backend.encode("a" * 40 + "!")
