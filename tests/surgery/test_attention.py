"""Attention of torch and of users, recurrent layers, shared weights: cut, priced, proved, stored and read back."""

import copy
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from compress.models.attention import Attention
from compress.models.external import UserFile
from compress.models.structure import load_model, save_model
from compress.surgery import cut, verify
from compress.surgery.attention import rewired
from compress.surgery.cost import cost_model, model_cost
from compress.surgery.find import find
from compress.tasks.signature import Signature, Tensor

TOKENS = torch.randn(4, 6, 12, generator=torch.Generator().manual_seed(0))


class Fused(nn.Module):
    def __init__(self, dim=12, heads=3):
        super().__init__()
        self.num_heads, self.scale = heads, 0.3
        self.qkv, self.drop, self.proj = nn.Linear(dim, 3 * dim), nn.Dropout(0.1), nn.Linear(dim, dim)

    def forward(self, x):
        B, N, C = x.shape
        q, k, v = self.qkv(x).reshape(B, N, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4)
        attention = self.drop((q @ k.transpose(-2, -1) * self.scale).softmax(dim=-1))
        return self.proj((attention @ v).transpose(1, 2).reshape(B, N, C))


class ByHead(Fused):
    def forward(self, x):
        B, N, C = x.shape
        q, k, v = self.qkv(x).view(B, N, self.num_heads, -1).transpose(1, 2).chunk(3, dim=-1)
        return self.proj(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(B, N, C))


class Three(nn.Module):
    """In another order than they are used, with the square root of the whole width."""

    def __init__(self, dim=12, heads=3):
        super().__init__()
        self.heads, self.embed_size = heads, dim
        self.values, self.keys, self.queries = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        self.fc_out = nn.Linear(dim, dim)

    def forward(self, x):
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, 4)).transpose(1, 2) for layer in (self.queries, self.keys, self.values)
        )
        energy = torch.einsum("nhqd,nhkd->nhqk", q, k) / math.sqrt(self.embed_size)
        return self.fc_out((energy.softmax(-1) @ v).transpose(1, 2).reshape(x.shape[0], x.shape[1], 12))


class Grouped(nn.Module):
    """Two queries a key, turned by their positions, normalised, and with a bias for each query head."""

    def __init__(self, dim=12, n_heads=6, n_kv_heads=3):
        super().__init__()
        self.n_heads, self.n_kv_heads, self.head_dim = n_heads, n_kv_heads, 4
        self.q, self.kv = nn.Linear(dim, 24), nn.Linear(dim, 24)
        self.norm, self.bias = nn.LayerNorm(4), nn.Parameter(torch.randn(11, n_heads))
        self.out = nn.Linear(24, dim)

    def forward(self, x, turn):
        q = self.norm(self.q(x).unflatten(-1, (self.n_heads, self.head_dim)).transpose(1, 2))
        k, v = (s.unflatten(-1, (self.n_kv_heads, 4)).transpose(1, 2) for s in self.kv(x).chunk(2, -1))
        k, v = (s.repeat_interleave(self.n_heads // self.n_kv_heads, 1) for s in (k, v))
        steps = torch.arange(x.shape[1])
        bias = self.bias[steps[:, None] - steps + 5].permute(2, 0, 1)
        mixed = F.scaled_dot_product_attention(q * turn, k * turn, v, attn_mask=bias)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Multihead(nn.MultiheadAttention):
    """Not torch's own: what it does is not known."""


class Around(nn.Module):
    """One module between a layer that writes 12 channels of tokens and one that reads them."""

    def __init__(self, inner, *, call=lambda inner, x: inner(x), width=12):
        super().__init__()
        self.call, self.stem, self.inner, self.head = call, nn.Linear(12, 12), inner, nn.Linear(width, 5)

    def forward(self, x):
        return self.head(self.call(self.inner, torch.relu(self.stem(x))).mean(1))


def padded(inner, x):
    mask = torch.arange(6)[None] >= torch.tensor([6, 4, 5, 6])[: len(x), None]
    return inner(x, x, x, key_padding_mask=mask, attn_mask=torch.ones(6, 6, dtype=torch.bool).triu(1))[0]


def encoder(**settings):
    layer = nn.TransformerEncoderLayer(12, 3, 16, batch_first=True, **settings)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


ATTENTION = {
    "fused": lambda: Around(Fused()),
    "fused by head, causal": lambda: Around(ByHead()),
    "three layers": lambda: Around(Three()),
    "grouped queries in their own code": lambda: Around(
        Grouped(), call=lambda inner, x: inner(x, torch.linspace(0, 1, 6, dtype=x.dtype)[:, None].cos())
    ),
    "torch's, masked": lambda: Around(nn.MultiheadAttention(12, 3, batch_first=True), call=padded),
    "torch's, sequence first": lambda: Around(
        nn.MultiheadAttention(12, 3, bias=False), call=lambda inner, x: inner(*[x.transpose(0, 1)] * 3)[0].mT.mT.mT.mT
    ),
    "torch's, keys of another sequence": lambda: Around(
        nn.MultiheadAttention(12, 3, batch_first=True), call=lambda inner, x: inner(x[:, :1], x, x)[0]
    ),
    "torch's, keys of another sequence, sequence first": lambda: Around(
        nn.MultiheadAttention(12, 3, bias=False),
        call=lambda inner, x: inner(query=x[:, :2].transpose(0, 1), key=(y := x.transpose(0, 1)), value=y * y)[
            0
        ].transpose(0, 1),
    ),
    "torch's encoder": lambda: Around(encoder()),
    "torch's encoder, norm first": lambda: Around(encoder(norm_first=True)),
}
RECURRENT = {
    "LSTM": lambda: Around(nn.LSTM(12, 8, batch_first=True), call=lambda rnn, x: rnn(x)[0], width=8),
    "GRU, two layers, both directions": lambda: Around(
        nn.GRU(12, 8, 2, batch_first=True, bidirectional=True), call=lambda rnn, x: rnn(x)[0], width=16
    ),
    "LSTM, last states of both directions": lambda: Around(
        nn.LSTM(12, 8, 2, bidirectional=True, bias=False),
        call=lambda rnn, x: torch.cat([*rnn(x.transpose(0, 1))[1][0][-2:]], dim=1)[:, None],
        width=16,
    ),
    "RNN behind an LSTM": lambda: Around(
        nn.ModuleList([nn.LSTM(12, 10, batch_first=True), nn.RNN(10, 8, batch_first=True)]),
        call=lambda both, x: both[1](both[0](x)[0])[0],
        width=8,
    ),
}


def tied():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.first, self.second = nn.Linear(12, 16), nn.Linear(16, 16), nn.Linear(16, 16)
            self.second.weight = self.first.weight
            self.head = nn.Linear(16, 5)

        def forward(self, x):
            x = torch.relu(self.stem(x.mean(1)))
            return self.head(torch.relu(self.second(torch.relu(self.first(x)))))

    return Tied()


def network(make):
    torch.manual_seed(0)
    return make().eval()


def halved(model):
    """The model with countable attention, its groups, about half of each, and the smaller model."""
    prepared = rewired(model, (TOKENS,))
    found = find(prepared, (TOKENS,))
    kept = {
        group.name: group.pick(torch.arange(group.width) % 7, max(1, group.width // group.unit // 2) * group.unit)
        for group in found.groups
    }
    smaller = copy.deepcopy(prepared)
    cut.apply(smaller, found.groups, kept)
    return prepared, found, kept, smaller


ALL = {**ATTENTION, **RECURRENT, "shared weights": tied}


@pytest.mark.parametrize("name", ALL)
def test_all_of_it_is_cut_proved_and_priced(name):
    model = network(ALL[name])
    prepared, found, kept, smaller = halved(model)
    assert not found.left
    torch.testing.assert_close(prepared(TOKENS), model(TOKENS), rtol=1e-5, atol=1e-6)
    assert verify.against_masked(prepared, smaller, found.groups, kept, (TOKENS,)) < 1e-12
    predicted = cost_model(prepared, found.groups, (TOKENS,)).cost(kept)
    assert predicted == model_cost(smaller, (TOKENS,))
    assert predicted.parameters == sum(parameter.numel() for parameter in smaller.parameters())
    before = model_cost(prepared, (TOKENS,))
    assert predicted.macs < 0.7 * before.macs
    assert ("heads" in {group.kind for group in found.groups}) == (name in ATTENTION)


@pytest.mark.parametrize("name", ALL)
def test_it_is_stored_and_read_back_and_trains(name, tmp_path, monkeypatch):
    model = network(ALL[name])
    smaller = halved(model)[3]
    monkeypatch.setattr(UserFile, "build", lambda *_, **__: network(ALL[name]))
    monkeypatch.setattr(UserFile, "strip", lambda self, _: self)
    signature = Signature(inputs=(Tensor(name="x", dtype="float32", shape=("batch", 6, 12)),), outputs=(), classes=())
    save_model(smaller, tmp_path, model=UserFile(path=Path("mine.py"), sha256="0"), signature=signature)
    back = load_model(tmp_path)
    assert torch.equal(back(TOKENS), smaller(TOKENS))
    assert len(list(back.parameters())) == len(list(smaller.parameters()))  # what is shared is shared
    back.train()(TOKENS).sum().backward()
    assert all(parameter.grad is not None for parameter in back.parameters())


@pytest.mark.parametrize("name", RECURRENT)
def test_a_wrong_unit_of_a_recurrent_layer_is_caught(name):
    model = network(RECURRENT[name])
    prepared, found, kept, smaller = halved(model)
    rnn = next(part for part in smaller.modules() if isinstance(part, nn.RNNBase))
    with torch.no_grad():
        rnn.weight_hh_l0.copy_(rnn.weight_hh_l0.roll(1, 1))
    with pytest.raises(verify.StageError, match="index map"):
        verify.against_masked(prepared, smaller, found.groups, kept, (TOKENS,))


def test_heads_leave_whole_and_dropout_stays():
    prepared, found, kept, smaller = halved(network(ATTENTION["fused"]))
    (group,) = [group for group in found.groups if group.kind == "heads"]
    assert (group.name, group.width, group.unit, len(kept["inner"])) == ("inner", 12, 4, 4)
    assert (smaller.inner.heads, smaller.inner.num_heads) == (1, 1)
    assert prepared.inner.wiring.attention_dropout == 0.0
    assert prepared.inner.wiring.output_dropout == 0.1


class Normalised(Fused):
    """Queries and keys of length 1."""

    def forward(self, x):
        B, N, C = x.shape
        q, k, v = self.qkv(x).reshape(B, N, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4)
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, N, C))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Around(Normalised()),
        lambda: Around(Multihead(12, 3, batch_first=True), call=lambda inner, x: inner(x, x, x)[0]),
        lambda: Around(
            nn.MultiheadAttention(12, 3, add_bias_kv=True, batch_first=True),
            call=lambda inner, x: inner(x[:, :1], x, x)[0],
        ),
        lambda: Around(nn.LSTM(12, 8, proj_size=4, batch_first=True), call=lambda rnn, x: rnn(x)[0], width=4),
    ],
)
def test_what_is_not_understood_stays_as_it_is(make):
    model = network(make)
    prepared = rewired(model, (TOKENS,))
    assert prepared is model
    assert not any(isinstance(part, Attention) for part in prepared.modules())
    assert {item.name for item in find(prepared, (TOKENS,)).left} >= {"stem"}
