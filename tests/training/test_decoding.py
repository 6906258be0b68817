"""Decoding against every text that there is: tiny vocabularies, where all of them can be listed."""

import itertools
import math

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from compress.errors import ModelError
from compress.models import Transducer
from compress.tasks.symbols import BEGIN, END, PAD
from compress.training.decoding import AnyDecoding, Beam, Greedy, Sample, Voices, draw_texts, nucleus, refuse_silent

SYMBOLS, LENGTH = (3, 4, 5), 4  # what can be written besides the end, and how long
SOURCES = torch.tensor([[4, 5, 3], [5, 4, 0], [3, 0, 0]])
MASK = (SOURCES != 0).long()


def make(seed: int, *, end: float = 0.0) -> Transducer:
    torch.manual_seed(seed)
    module = Transducer(
        source_symbols=6, target_symbols=6, width=16, heads=2, feed_forward=16, encoder_layers=1, decoder_layers=2,
        max_length=LENGTH + 4,
    )  # fmt: skip
    nn.init.normal_(module.target.symbols.weight, std=0.6)
    module.target.symbols.weight.data[END] += end
    return module.double().eval()


def write(how, *models: nn.Module, weights=(1.0,), seed=0, max_length=LENGTH, sources=SOURCES):
    with torch.no_grad():
        voices = Voices(models, weights, sources, (sources != 0).long())
        generator = torch.Generator().manual_seed(seed)
        return how.write(voices, steps=torch.full((len(sources),), max_length), generator=generator)


def log_probabilities(models, weights, source: Tensor, given: list[int]) -> Tensor:
    """[V] after the given symbols, by a whole pass without any cache."""
    ids = source[source != 0][None]
    total = torch.zeros(6, dtype=torch.float64)
    for model, weight in zip(models, weights, strict=True):
        with torch.no_grad():
            logits = model(ids, torch.ones_like(ids), torch.tensor([[BEGIN, *given]]))[0, -1].clone()
        logits[[PAD, BEGIN]] = -math.inf
        total += weight * logits.softmax(0)
    return total.log()


def score(models, weights, source, text, *, ended=True) -> float:
    symbols = [*text, END] if ended else [*text]
    return sum(
        float(log_probabilities(models, weights, source, symbols[:place])[symbol])
        for place, symbol in enumerate(symbols)
    )


def every_text(models, weights, source, *, penalty: float) -> list[tuple[float, tuple[int, ...]]]:
    """All texts that end, the likeliest first."""
    texts = [text for size in range(LENGTH) for text in itertools.product(SYMBOLS, repeat=size)]
    return sorted(
        ((score(models, weights, source, text) / (len(text) + 1) ** penalty, text) for text in texts), reverse=True
    )


def texts_of(found, source: int) -> list[tuple[int, ...]]:
    return [tuple(number for number in row if number != PAD) for row in found.ids[source].tolist()]


@pytest.mark.parametrize("count", [1, 2])
def test_a_wide_beam_finds_what_listing_every_text_finds(count):
    models, weights = [make(seed, end=0.5) for seed in range(count)], [1 / count] * count
    found = write(Beam(size=200, best=200, length_penalty=0), *models, weights=weights)
    for row, source in enumerate(SOURCES):
        wanted = every_text(models, weights, source, penalty=0)
        ended = [text for text, whole in zip(texts_of(found, row), found.ended[row], strict=True) if whole]
        assert ended == [text for _, text in wanted]
        likely = found.log_probability[row][found.ended[row]].tolist()
        assert likely == pytest.approx([value for value, _ in wanted], abs=1e-9)


def test_a_length_penalty_ranks_by_the_mean():
    model = make(1, end=0.5)
    found = write(Beam(size=200, best=60, length_penalty=1), model)
    for row, source in enumerate(SOURCES):
        steps = found.lengths[row] + found.ended[row]
        means = (found.log_probability[row] / steps)[found.ended[row]].tolist()
        assert means == sorted(means, reverse=True)
        best = every_text([model], [1.0], source, penalty=1)[0]
        assert means[0] == pytest.approx(best[0], abs=1e-9)


def test_greedy_takes_the_likeliest_symbol_and_a_beam_of_one_does_the_same():
    model = make(2)
    found, beam = write(Greedy(), model), write(Beam(size=1), model)
    assert torch.equal(found.ids, beam.ids)
    assert torch.equal(found.ended, beam.ended)
    assert torch.allclose(found.log_probability, beam.log_probability)
    for row, source in enumerate(SOURCES):
        text: list[int] = []
        while len(text) < LENGTH:
            symbol = int(log_probabilities([model], [1.0], source, text).argmax())
            if symbol == END:
                break
            text.append(symbol)
        assert texts_of(found, row) == [tuple(text)]
        own = score([model], [1.0], source, text, ended=bool(found.ended[row, 0]))
        assert float(found.log_probability[row, 0]) == pytest.approx(own, abs=1e-9)


def test_sources_are_written_alone_as_together():
    model = make(3)
    for how in (Greedy(), Beam(size=3, best=2)):
        together = write(how, model)
        for row in range(3):
            alone = write(how, model, sources=SOURCES[row : row + 1, : int(MASK[row].sum())])
            assert texts_of(alone, 0) == texts_of(together, row)


def test_a_model_that_never_ends_is_cut_and_told_apart():
    model = make(4, end=-40.0)
    model.head.weight.data[END] = 0
    for how in (Greedy(), Beam(size=2), Sample(texts=3)):
        found = write(how, model, max_length=LENGTH)
        assert found.lengths.max() <= LENGTH
        assert found.ids.shape[2] == LENGTH
    hopeless = write(Greedy(), Never(), max_length=LENGTH)
    assert not hopeless.ended.any()
    assert (hopeless.lengths == LENGTH).all()


@pytest.mark.parametrize("how", [Greedy(), Beam(size=3, best=2), Sample(texts=3)])
def test_each_source_stops_at_a_limit_of_its_own_and_says_so(how):
    sources, steps = SOURCES, torch.tensor([1, 4, 2])
    with torch.no_grad():
        voices = Voices([Never()], [1.0], sources, (sources != 0).long())
        found = how.write(voices, steps=steps, generator=torch.Generator().manual_seed(0))
    assert not found.ended.any()
    assert (found.lengths == steps[:, None]).all()
    model = make(2)
    with torch.no_grad():
        voices = Voices([model], [1.0], sources, (sources != 0).long())
        found = Greedy().write(voices, steps=steps, generator=torch.Generator())
    whole = write(Greedy(), model)
    for row, most in enumerate(steps.tolist()):
        assert texts_of(found, row) == [texts_of(whole, row)[0][:most]]
        assert bool(found.ended[row, 0]) == bool(whole.ended[row, 0] and whole.lengths[row, 0] < most)


class Never(nn.Module):
    """Writes the same symbol for ever."""

    def encode(self, ids, mask):
        return ()

    def empty_past(self, cross):
        return ()

    def step(self, token, mask, cross, past):
        logits = torch.zeros(len(token), 6)
        logits[:, 3], logits[:, END] = 5, -50
        return logits, ()


def test_samples_are_drawn_with_the_models_own_probabilities():
    model, many = make(5, end=0.5), 4000
    found = write(Sample(texts=many), model, seed=1)
    assert found.log_probability.shape == (3, many)
    for row, source in enumerate(SOURCES):
        drawn = texts_of(found, row)
        for value, text in every_text([model], [1.0], source, penalty=0)[:3]:
            share = sum(1 for own, whole in zip(drawn, found.ended[row], strict=True) if whole and own == text) / many
            expected = math.exp(value)
            assert share == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / many))
        first = drawn[0]
        own = score([model], [1.0], source, first, ended=bool(found.ended[row, 0]))
        assert float(found.log_probability[row, 0]) == pytest.approx(own, abs=1e-9)


def test_equal_seeds_draw_equal_samples_and_a_low_temperature_is_greedy():
    model = make(6)
    first, again, other = (write(Sample(texts=8), model, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.ids, again.ids)
    assert not torch.equal(first.ids, other.ids)
    cold, narrow = write(Sample(texts=2, temperature=1e-3), model), write(Sample(texts=2, top_p=1e-6), model)
    greedy = write(Greedy(), model).ids.expand(-1, 2, -1)
    assert torch.equal(cold.ids, greedy)
    assert torch.equal(narrow.ids, greedy)


def test_given_numbers_draw_each_symbol_with_its_probability_whatever_is_written_beside_it():
    model, many = make(7, end=0.5), 500
    numbers = torch.rand(many, LENGTH, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    numbers[:, 0] = (torch.arange(many) + 0.5) / many
    sources = SOURCES[:1].expand(many, -1)

    def draw(rows):
        with torch.no_grad():
            voices = Voices([model], [1.0], sources[rows], (sources[rows] != 0).long())
            return draw_texts(voices, numbers[rows], torch.full((len(rows),), LENGTH), temperature=0.7)

    whole = draw(torch.arange(many))
    shares = (log_probabilities([model], [1.0], SOURCES[0], []) / 0.7).softmax(0)
    first = torch.where(whole.lengths[:, 0] > 0, whole.ids[:, 0, 0], END)
    drawn = torch.bincount(first, minlength=6) / many
    assert (drawn - shares).abs().max() < 2 / many
    assert torch.equal(draw(torch.arange(40, 60)).ids, whole.ids[40:60])
    assert 0 < int(whole.ended.sum()) < many


def test_the_nucleus_is_the_smallest_set_with_the_asked_probability():
    shares = torch.tensor([[0.1, 0.5, 0.4], [0.2, 0.2, 0.6]])
    assert nucleus(shares, 0.5).tolist() == [pytest.approx([0, 0.5, 0]), pytest.approx([0, 0, 0.6])]
    assert nucleus(shares, 0.7).tolist() == [pytest.approx([0, 0.5, 0.4]), pytest.approx([0.2, 0, 0.6])]
    assert torch.equal(nucleus(shares, 1.0), shares)


def test_a_recipe_spells_it_and_what_makes_no_sense_is_refused():
    read = TypeAdapter(AnyDecoding).validate_python
    assert read("greedy") == Greedy()
    assert read({"beam": {"size": 8, "best": 8}}) == Beam(size=8, best=8)
    assert read({"sample": {"texts": 2, "top_p": 0.9}}) == Sample(texts=2, top_p=0.9)
    with pytest.raises(ValueError, match="best up to size 5"):
        Beam(best=6)
    with pytest.raises(ModelError, match="step by step"):
        refuse_silent(nn.Linear(2, 2), where="teacher")
