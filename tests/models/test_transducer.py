"""The encoder-decoder: one pass equals step by step, nothing sees ahead, padding changes nothing."""

import pytest
import torch
from torch import nn

from compress import EncoderDecoder, load_model
from compress.errors import ModelError
from compress.models import Transducer, save_model
from compress.models.dropout import Dropout
from compress.models.writing import sinusoids
from compress.tasks import Signature, Tensor
from compress.tasks.symbols import BEGIN, PAD

CLASSES = ("pad", "begin", "end", "unknown", "A", "B", "C", "D")
SIGNATURE = Signature(
    inputs=(
        Tensor(name="source_ids", dtype="int64", shape=("batch", "source"), symbols=11),
        Tensor(name="source_mask", dtype="int64", shape=("batch", "source")),
        Tensor(name="target_ids", dtype="int64", shape=("batch", "target")),
    ),
    outputs=(Tensor(name="logits", dtype="float32", shape=("batch", "target", len(CLASSES))),),
    classes=CLASSES,
)


def make(positions="learned", *, decoder_layers=2, dropout=0.0) -> Transducer:
    torch.manual_seed(0)
    family = EncoderDecoder(
        width=16, heads=4, feed_forward=24, encoder_layers=2, decoder_layers=decoder_layers, dropout=dropout,
        max_length=12, positions=positions,
    )  # fmt: skip
    module = family.build(SIGNATURE, code=())
    assert isinstance(module, Transducer)
    return module.eval()


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Three sequences of lengths 7, 4 and 1, and targets of 5 symbols."""
    generator = torch.Generator().manual_seed(1)
    source = torch.randint(4, 11, (3, 7), generator=generator)
    mask = (torch.arange(7) < torch.tensor([7, 4, 1])[:, None]).long()
    target = torch.randint(4, 8, (3, 5), generator=generator)
    target[:, 0] = BEGIN
    return source * mask, mask, target


def write(module: Transducer, source, mask, target) -> torch.Tensor:
    """Logits [N, T, V], symbol by symbol."""
    cross = module.encode(source, mask)
    past, found = module.empty_past(cross), []
    for place in range(target.shape[1]):
        logits, past = module.step(target[:, place : place + 1], mask, cross, past)
        assert all(part.shape[2] == place + 1 for part in past)
        found.append(logits)
    return torch.stack(found, dim=1)


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_symbol_by_symbol_is_the_same_as_all_at_once(positions, dtype, tolerance):
    module = make(positions).to(dtype)
    with torch.no_grad():
        assert (write(module, *inputs()) - module(*inputs())).abs().max() < tolerance


def test_padding_of_source_and_target_changes_nothing():
    module = make().double()
    source, mask, target = inputs()
    alone = module(source[1:2, :4], mask[1:2, :4], target[1:2, :3])
    padded = torch.where(torch.arange(5) < 3, target, PAD)
    assert (module(source, mask, padded)[1, :3] - alone[0]).abs().max() < 1e-12
    scrambled = torch.where(mask == 0, 9, source)
    assert torch.equal(module(scrambled, mask, target), module(source, mask, target))


def test_a_symbol_sees_none_after_it_and_all_of_the_source():
    module = make()
    source, mask, target = inputs()
    before = module(source, mask, target)
    later = target.clone()
    later[:, 3] = 7 - later[:, 3] % 4
    assert torch.equal(module(source, mask, later)[:, :3], before[:, :3])
    assert not torch.allclose(module(source, mask, later)[:, 3:], before[:, 3:])
    other = source.clone()
    other[0, 6] = 4 + (other[0, 6] - 3) % 7
    assert not torch.allclose(module(other, mask, target)[0, 0], before[0, 0])


def test_the_cache_has_the_agreed_order_and_shapes():
    module = make()
    source, mask, target = inputs()
    cross = module.encode(source, mask)
    assert [tuple(part.shape) for part in cross] == [(3, 4, 7, 4)] * 4
    _, present = module.step(target[:, :1], mask, cross, module.empty_past(cross))
    assert [tuple(part.shape) for part in present] == [(3, 4, 1, 4)] * 4
    assert torch.equal(cross[2], module.decoder[1].cross.project(_encoded(module, source, mask))[0])


def _encoded(module: Transducer, source, mask) -> torch.Tensor:
    found: list[torch.Tensor] = []
    handle = module.encoder_norm.register_forward_hook(lambda _module, _inputs, output: found.append(output))
    module.encode(source, mask)
    handle.remove()
    return found[0]


def test_the_output_layer_is_the_target_embedding_also_after_loading(tmp_path):
    module = make(decoder_layers=1)
    assert module.head.weight is module.target.symbols.weight
    family = EncoderDecoder(
        width=16, heads=4, feed_forward=24, encoder_layers=2, decoder_layers=1, dropout=0, max_length=12
    )
    save_model(module, tmp_path, model=family, signature=SIGNATURE)
    loaded = load_model(tmp_path)
    assert isinstance(loaded, Transducer)
    assert loaded.head.weight is loaded.target.symbols.weight
    assert torch.equal(loaded(*inputs()), module(*inputs()))


def test_sinusoids_are_those_of_the_paper():
    table = sinusoids(5, 6).double()
    assert table[0].tolist() == [0, 0, 0, 1, 1, 1]
    assert table[3, 1].item() == pytest.approx(torch.sin(torch.tensor(3 / 10_000 ** (2 / 6))).item(), abs=1e-6)
    assert make("sinusoidal").state_dict().keys() < make("learned").state_dict().keys()


def test_gradients_reach_every_parameter():
    module = make(dropout=0.5).train()
    source, mask, target = inputs()
    nn.functional.cross_entropy(module(source, mask, target).flatten(0, 1), target.flatten()).backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in module.parameters())


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_dropout_zeroes_its_share_and_keeps_the_mean(probability):
    torch.manual_seed(0)
    values = torch.ones(1001, 301, requires_grad=True)
    found = Dropout(probability)(values)
    rounded = round(probability * 256) / 256
    assert float((found == 0).float().mean()) == pytest.approx(rounded, abs=0.003)
    assert float(found.detach().max()) == pytest.approx(1 / (1 - rounded))
    assert float(found.detach().mean()) == pytest.approx(1, abs=0.02)
    assert not torch.equal(found[0] == 0, found[1] == 0)
    assert torch.equal(torch.autograd.grad(found.sum(), values)[0], found)


def test_dropout_is_drawn_by_the_seed_and_not_at_all_in_evaluation_or_at_0():
    values = torch.randn(5, 7, dtype=torch.bfloat16)
    torch.manual_seed(3)
    first = Dropout(0.5)(values)
    torch.manual_seed(3)
    assert torch.equal(Dropout(0.5)(values), first)
    assert first.dtype == values.dtype
    assert Dropout(0.5).eval()(values) is values
    assert Dropout(0.001)(values) is values


def test_a_task_of_another_kind_is_refused():
    with pytest.raises(ModelError, match="writes sequences"):
        EncoderDecoder().build(Signature(inputs=SIGNATURE.inputs[1:2], outputs=SIGNATURE.outputs), code=())
    with pytest.raises(ValueError, match="4 heads divide"):
        EncoderDecoder(width=18)


def test_only_known_numbers_of_symbols_are_written():
    first, second = (tensor.model_dump(mode="json") for tensor in SIGNATURE.inputs[:2])
    assert first["symbols"] == 11
    assert "symbols" not in second
