"""Fewer tokens: kept ones split as before, for every kind of tokenizer; the rest becomes shorter pieces or unknown."""

import json

import numpy as np
import pytest
import text_zoo
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend

from compress.errors import ModelError
from compress.tasks import Tokenizer
from compress.tasks.vocabulary import keep_tokens

MAKERS = {
    "wordpiece": text_zoo.make_tokenizer,
    "byte-bpe": text_zoo.make_byte_bpe,
    "unigram": text_zoo.make_unigram,
}
WORDS = [
    *text_zoo.GOOD,
    *text_zoo.BAD,
    *text_zoo.FILLERS,
    "goodness",
    "filmy",
    "unreal",
    "Happy!",
    "3.5",
    "é",
    "\u4e2d",
]
TEXTS = st.lists(st.sampled_from(WORDS) | st.text("abdelmorty é!", max_size=6), min_size=1, max_size=8).map(" ".join)


@pytest.fixture(scope="module", params=MAKERS)
def tokenizer(request, tmp_path_factory) -> Tokenizer:
    folder = MAKERS[request.param](tmp_path_factory.mktemp(request.param))
    return Tokenizer.load(str(folder), max_length=64)


def backend(files) -> Backend:
    return Backend.from_str(files["tokenizer.json"])


def shrunk(tokenizer: Tokenizer, wanted) -> tuple[Backend, Backend, np.ndarray]:
    files, old = keep_tokens(tokenizer.files(), wanted)
    return backend(tokenizer.files()), backend(files), old


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 10), share=st.floats(0, 1), texts=st.lists(TEXTS, min_size=1, max_size=6))
def test_texts_of_kept_tokens_are_split_as_before(tokenizer, seed, share, texts):
    rng = np.random.default_rng(seed)
    wanted = {int(number) for number in np.flatnonzero(rng.random(tokenizer.size) < share)}
    before, after, old = shrunk(tokenizer, wanted)
    # Texts that are kept whole, and those that happen to be.
    wanted |= set(before.encode(texts[0]).ids)
    before, after, old = shrunk(tokenizer, wanted)
    kept = set(old.tolist())
    assert wanted <= kept
    for text in texts:
        expected = before.encode(text)
        found = after.encode(text)
        if set(expected.ids) <= kept:
            assert old[found.ids].tolist() == expected.ids
            assert found.tokens == expected.tokens
            assert found.type_ids == expected.type_ids
        assert max(found.ids) < len(old)
    pair = before.encode(texts[0], texts[0])
    assert old[after.encode(texts[0], texts[0]).ids].tolist() == pair.ids
    assert after.encode(texts[0], texts[0]).type_ids == pair.type_ids


def test_everything_kept_changes_nothing(tokenizer):
    files, old = keep_tokens(tokenizer.files(), range(tokenizer.size))
    assert old.tolist() == list(range(tokenizer.size))
    assert json.loads(files["tokenizer.json"]) == json.loads(tokenizer.files()["tokenizer.json"])
    assert Tokenizer.from_files(files, max_length=64).digest == tokenizer.digest


def test_special_tokens_and_padding_have_their_new_numbers(tokenizer):
    files, old = keep_tokens(tokenizer.files(), ())
    assert 0 < len(old) < tokenizer.size
    after = Tokenizer.from_files(files, max_length=64)
    assert after.size == len(old)
    assert old[after.pad_id] == tokenizer.pad_id
    ours, theirs = after._tokenizer, tokenizer._tokenizer
    assert [old[number] for number in ours.all_special_ids] == theirs.all_special_ids
    assert ours.all_special_tokens == theirs.all_special_tokens
    assert after.takes_types == tokenizer.takes_types
    # The files say the same when they are loaded and saved once more.
    again = Tokenizer.from_files(after.files(), max_length=64)
    assert again.digest == after.digest
    assert again.files() == after.files()


def test_a_word_with_a_removed_token_becomes_shorter_pieces(tokenizer):
    before, after, old = shrunk(tokenizer, ())
    word = "the wonderful film"
    assert len(after.encode(word).ids) > len(before.encode(word).ids)
    letters = [token.strip("#Ġ▁") for token in after.encode(word).tokens[1:-1]]
    assert "".join(letters) == word.replace(" ", "")
    assert all(len(piece) <= 1 for piece in letters)


def test_what_has_no_pieces_is_unknown(tokenizer):
    _, after, old = shrunk(tokenizer, ())
    found = after.encode("\u4e2d")
    # Byte by byte, of which it has three; transformers 5 has one class where 4 has two.
    if type(tokenizer._tokenizer).__name__.startswith("RobertaTokenizer"):
        assert len(found.ids) == 5
    else:
        assert old[found.ids].tolist().count(tokenizer._tokenizer.unk_token_id) == 1


def test_a_text_loaded_by_transformers_is_split_as_by_the_file_that_ships(tokenizer):
    """transformers builds some tokenizers anew from their vocabulary; a deployment reads the file."""
    files, _ = keep_tokens(tokenizer.files(), range(0, tokenizer.size, 2))
    loaded = Tokenizer.from_files(files, max_length=64)._tokenizer
    for text in ("The film was wonderful, really!", "a  b", " it", "é 中"):
        assert loaded(text)["input_ids"] == backend(files).encode(text).ids, text


def test_numbers_without_a_token_are_closed_up(tmp_path):
    content = json.loads((text_zoo.make_tokenizer(tmp_path) / "tokenizer.json").read_text())
    vocab = content["model"]["vocab"]
    content["model"]["vocab"] = holed = {piece: number + (number > 20) for piece, number in vocab.items()}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = Tokenizer.load(str(tmp_path), max_length=32)
    assert tokenizer.size == len(vocab) + 1
    files, old = keep_tokens(tokenizer.files(), holed.values())
    assert json.loads(files["tokenizer.json"])["model"]["vocab"] == vocab
    assert 21 not in old


def test_unknown_kinds_are_refused():
    content = {"model": {"type": "WordLevel", "vocab": {}}, "added_tokens": []}
    with pytest.raises(ModelError, match=r"(?s)WordPiece, BPE or Unigram.*WordLevel"):
        keep_tokens({"tokenizer.json": json.dumps(content)}, ())


def test_pieces_that_stand_for_bytes_are_kept():
    vocab = [["<unk>", 0.0], ["<0x0A>", -1.0], ["<0xC3>", -1.0], ["ab", -2.0], ["a", -3.0]]
    model = {"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": True}
    _, old = keep_tokens({"tokenizer.json": json.dumps({"model": model, "added_tokens": []})}, ())
    assert old.tolist() == [0, 1, 2, 4]


def test_merges_of_pieces_with_a_prefix_are_followed():
    vocab = {"a": 0, "##b": 1, "##c": 2, "ab": 3, "abc": 4, "##bc": 5, "a##b": 6}
    model = {
        "type": "BPE",
        "vocab": vocab,
        "merges": [["a", "##b"], ["ab", "##c"], ["##b", "##c"]],
        "continuing_subword_prefix": "##",
    }
    files, old = keep_tokens({"tokenizer.json": json.dumps({"model": model, "added_tokens": []})}, {4})
    assert old.tolist() == [0, 1, 2, 3, 4]
    assert json.loads(files["tokenizer.json"])["model"]["merges"] == [["a", "##b"], ["ab", "##c"]]


def test_words_begin_with_a_space_where_byte_level_tokens_need_one(tmp_path):
    folder = text_zoo.make_byte_bpe(tmp_path)
    running = Tokenizer.load(str(folder), max_length=32)._tokenizer.tokenize(" the film was")
    assert running[0].startswith("Ġ")
    tokenizer = Tokenizer.load(str(folder), max_length=32, words=True)
    found = tokenizer._tokenizer(["the", "film", "was"], is_split_into_words=True)
    assert found.tokens()[1:-1] == running
    # A deployment, and a stored model, read the same from the files.
    shipped = backend(tokenizer.files()).encode(["the", "film", "was"], is_pretokenized=True)
    assert shipped.tokens[1:-1] == running
    assert Tokenizer.from_files(tokenizer.files(), max_length=32).digest == tokenizer.digest
