"""Transformers, recurrent networks, mixers, signals, tables and words, as their users write them."""

import math

import torch
import torch.nn.functional as F
from torch import nn

CLASSES = 5


class FusedAttention(nn.Module):
    """timm's: one layer for queries, keys and values."""

    def __init__(self, dim, num_heads=4, qkv_bias=True):
        super().__init__()
        self.num_heads, self.head_dim = num_heads, dim // num_heads
        self.scale = self.head_dim**-0.5
        self.qkv = nn.Linear(dim, dim * 3, bias=qkv_bias)
        self.attn_drop, self.proj, self.proj_drop = nn.Dropout(0.0), nn.Linear(dim, dim), nn.Dropout(0.0)

    def forward(self, x):
        B, N, C = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        x = F.scaled_dot_product_attention(q, k, v)
        x = x.transpose(1, 2).reshape(B, N, C)
        return self.proj_drop(self.proj(x))


class Mlp(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.fc1, self.act, self.drop, self.fc2 = (
            nn.Linear(dim, hidden),
            nn.GELU(),
            nn.Dropout(0.0),
            nn.Linear(hidden, dim),
        )

    def forward(self, x):
        return self.fc2(self.drop(self.act(self.fc1(x))))


class LayerScale(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.gamma = nn.Parameter(0.1 * torch.ones(dim))

    def forward(self, x):
        return x * self.gamma


class Block(nn.Module):
    def __init__(self, dim, *, scaled=False, mlp=Mlp):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim), FusedAttention(dim)
        self.norm2, self.mlp = nn.LayerNorm(dim), mlp(dim, 4 * dim)
        self.ls1, self.ls2 = (LayerScale(dim), LayerScale(dim)) if scaled else (nn.Identity(), nn.Identity())

    def forward(self, x):
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.proj = nn.Conv2d(3, dim, 4, stride=4)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


class VisionTransformer(nn.Module):
    """timm's; with a distillation token it is DeiT."""

    def __init__(self, dim=32, depth=2, *, tokens=1, scaled=False, mlp=Mlp):
        super().__init__()
        self.patch_embed = PatchEmbed(dim)
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, tokens, dim))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, 16 + tokens, dim))
        self.blocks = nn.Sequential(*(Block(dim, scaled=scaled, mlp=mlp) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, CLASSES)
        self.head_dist = nn.Linear(dim, CLASSES) if tokens == 2 else None

    def forward(self, x):
        x = self.patch_embed(x)
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        x = self.norm(self.blocks(x + self.pos_embed))
        if self.head_dist is None:
            return self.head(x[:, 0])
        return (self.head(x[:, 0]) + self.head_dist(x[:, 1])) / 2


def vit_timm():
    return VisionTransformer()


def deit():
    return VisionTransformer(tokens=2)


def cait():
    return VisionTransformer(scaled=True)


class SwiGlu(nn.Module):
    """Llama's: gate, up and down."""

    def __init__(self, dim, hidden):
        super().__init__()
        self.w1, self.w2, self.w3 = (
            nn.Linear(a, b, bias=False) for a, b in ((dim, hidden), (hidden, dim), (dim, hidden))
        )

    def forward(self, x):
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class PackedSwiGlu(nn.Module):
    """timm's and xformers': gate and up in one layer."""

    def __init__(self, dim, hidden):
        super().__init__()
        self.w12, self.w3 = nn.Linear(dim, 2 * hidden), nn.Linear(hidden, dim)

    def forward(self, x):
        x1, x2 = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(x1) * x2)


class GeGlu(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.proj, self.out = nn.Linear(dim, 2 * hidden), nn.Linear(hidden, dim)

    def forward(self, x):
        return self.out(F.glu(self.proj(x), dim=-1))


def vit_swiglu():
    return VisionTransformer(mlp=SwiGlu)


def vit_packed_swiglu():
    return VisionTransformer(mlp=PackedSwiGlu)


def vit_geglu():
    return VisionTransformer(mlp=GeGlu)


class MinGpt(nn.Module):
    """lucidrains': to_qkv, chunk, heads by rearrangement; mean pooling."""

    def __init__(self, dim=32, heads=2, dim_head=16):
        super().__init__()
        self.heads, self.scale = heads, dim_head**-0.5
        self.to_patch = nn.Linear(48, dim)
        self.norm, self.to_qkv = nn.LayerNorm(dim), nn.Linear(dim, heads * dim_head * 3, bias=False)
        self.to_out = nn.Sequential(nn.Linear(heads * dim_head, dim), nn.Dropout(0.0))
        self.ff = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 64), nn.GELU(), nn.Dropout(0.0), nn.Linear(64, dim))
        self.head = nn.Linear(dim, CLASSES)

    def forward(self, x):
        b = x.shape[0]
        x = x.reshape(b, 3, 4, 4, 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(b, 16, 48)
        x = self.to_patch(x)
        q, k, v = (t.reshape(b, 16, self.heads, -1).transpose(1, 2) for t in self.to_qkv(self.norm(x)).chunk(3, dim=-1))
        attention = (torch.matmul(q, k.transpose(-1, -2)) * self.scale).softmax(dim=-1)
        out = torch.matmul(attention, v).transpose(1, 2).reshape(b, 16, -1)
        x = x + self.to_out(out)
        return self.head((x + self.ff(x)).mean(dim=1))


class SeparateHeads(nn.Module):
    """Attention written out, with a layer each for queries, keys and values."""

    def __init__(self, dim=32, heads=4):
        super().__init__()
        self.heads = heads
        self.patch = nn.Conv2d(3, dim, 4, 4)
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.up, self.down, self.norm = nn.Linear(dim, 128), nn.Linear(128, dim), nn.LayerNorm(dim)
        self.head = nn.Linear(dim, CLASSES)

    def forward(self, x):
        x = self.patch(x).flatten(2).mT
        b, n, c = x.shape
        q, k, v = (
            layer(x).view(b, n, self.heads, c // self.heads).transpose(1, 2) for layer in (self.q, self.k, self.v)
        )
        attention = torch.softmax(q @ k.mT / math.sqrt(c // self.heads), dim=-1)
        x = self.norm(x + self.o((attention @ v).transpose(1, 2).contiguous().view(b, n, c)))
        x = x + self.down(torch.relu(self.up(x)))
        return self.head(x.mean(1))


class TorchEncoder(nn.Module):
    """nn.TransformerEncoder over words."""

    def __init__(self, *, norm_first=False, activation="relu"):
        super().__init__()
        self.embed = nn.Embedding(50, 32)
        self.position = nn.Parameter(0.02 * torch.randn(1, 12, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 128, 0.1, activation, batch_first=True, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.fc = nn.Linear(32, CLASSES)

    def forward(self, ids):
        x = self.embed(ids) + self.position[:, : ids.shape[1]]
        return self.fc(self.encoder(x).mean(dim=1))


def encoder_post_norm():
    return TorchEncoder()


def encoder_pre_norm():
    return TorchEncoder(norm_first=True, activation="gelu")


class SequenceFirst(nn.Module):
    """The tutorial's: [T, N, E], sines as positions."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 32)
        angle = torch.arange(12)[:, None] * torch.exp(torch.arange(0, 32, 2) * (-math.log(10000.0) / 32))
        self.register_buffer("pe", torch.stack([angle.sin(), angle.cos()], -1).flatten(1)[:, None])
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 2, 128), 1, enable_nested_tensor=False)
        self.fc = nn.Linear(32, CLASSES)

    def forward(self, ids):
        x = self.embed(ids.transpose(0, 1)) * math.sqrt(32) + self.pe[: ids.shape[1]]
        return self.fc(self.encoder(x).mean(dim=0))


class AttentionPool(nn.Module):
    """nn.MultiheadAttention after convolutions."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 32, 3, 2, 1)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.fc1, self.fc2 = nn.Linear(32, 48), nn.Linear(48, CLASSES)

    def forward(self, x):
        x = F.relu(self.conv2(F.relu(self.conv1(x)))).flatten(2).transpose(1, 2)
        x, _ = self.attention(x, x, x, need_weights=False)
        return self.fc2(F.relu(self.fc1(x.mean(1))))


class Mixer(nn.Module):
    def __init__(self, dim=32, tokens=16):
        super().__init__()
        self.patch = nn.Conv2d(3, dim, 4, 4)
        self.norm1, self.norm2, self.norm = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.token = nn.Sequential(nn.Linear(tokens, 24), nn.GELU(), nn.Linear(24, tokens))
        self.channel = nn.Sequential(nn.Linear(dim, 64), nn.GELU(), nn.Linear(64, dim))
        self.head = nn.Linear(dim, CLASSES)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = x + self.token(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.channel(self.norm2(x))
        return self.head(self.norm(x).mean(dim=1))


class GatedMlp(nn.Module):
    """gMLP: a spatial gate on half of the channels."""

    def __init__(self, dim=24, tokens=16):
        super().__init__()
        self.patch, self.norm = nn.Conv2d(3, dim, 4, 4), nn.LayerNorm(dim)
        self.proj1, self.proj2 = nn.Linear(dim, 64), nn.Linear(32, dim)
        self.gate_norm, self.spatial = nn.LayerNorm(32), nn.Linear(tokens, tokens)
        self.head = nn.Linear(dim, CLASSES)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        u, v = F.gelu(self.proj1(self.norm(x))).chunk(2, dim=-1)
        v = self.spatial(self.gate_norm(v).transpose(1, 2)).transpose(1, 2)
        return self.head((x + self.proj2(u * v)).mean(1))


def window_partition(x, size):
    b, h, w, c = x.shape
    x = x.view(b, h // size, size, w // size, size, c)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, size * size, c)


def window_reverse(windows, size, h, w):
    b = windows.shape[0] // (h * w // size // size)
    x = windows.view(b, h // size, w // size, size, size, -1)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(b, h, w, -1)


class SwinBlock(nn.Module):
    def __init__(self, dim, shift):
        super().__init__()
        self.shift, self.window = shift, 2
        self.norm1, self.attn, self.norm2, self.mlp = (
            nn.LayerNorm(dim),
            FusedAttention(dim),
            nn.LayerNorm(dim),
            Mlp(dim, 64),
        )

    def forward(self, x):
        _, h, w, _ = x.shape
        y = torch.roll(self.norm1(x), (-self.shift, -self.shift), dims=(1, 2))
        y = window_reverse(self.attn(window_partition(y, self.window)), self.window, h, w)
        x = x + torch.roll(y, (self.shift, self.shift), dims=(1, 2))
        return x + self.mlp(self.norm2(x))


class Swin(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch, self.norm = nn.Conv2d(3, 16, 2, 2), nn.LayerNorm(16)
        self.stage1 = nn.Sequential(SwinBlock(16, 0), SwinBlock(16, 1))
        self.merge_norm, self.reduction = nn.LayerNorm(64), nn.Linear(64, 32, bias=False)
        self.stage2 = nn.Sequential(SwinBlock(32, 0))
        self.last, self.head = nn.LayerNorm(32), nn.Linear(32, CLASSES)

    def forward(self, x):
        x = self.stage1(self.norm(self.patch(x).permute(0, 2, 3, 1)))
        x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1)
        x = self.stage2(self.reduction(self.merge_norm(x)))
        return self.head(self.last(x).mean((1, 2)))


class MobileVit(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.SiLU())
        self.local, self.expand = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 24, 1)
        self.block, self.project = Block(24), nn.Conv2d(24, 16, 1)
        self.fusion, self.head = nn.Conv2d(32, 16, 3, padding=1), nn.Linear(16, CLASSES)

    def forward(self, x):
        x = self.stem(x)
        y = self.expand(self.local(x))
        b, c, h, w = y.shape
        y = y.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 2, 4, 1).reshape(b * 4, h * w // 4, c)
        y = self.block(y)
        y = y.reshape(b, 2, 2, h // 2, w // 2, c).permute(0, 5, 3, 1, 4, 2).reshape(b, c, h, w)
        return self.head(self.fusion(torch.cat([x, self.project(y)], 1)).mean((2, 3)))


class PoolFormer(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch, self.norm1, self.norm2 = nn.Conv2d(3, 24, 4, 4), nn.GroupNorm(1, 24), nn.GroupNorm(1, 24)
        self.pool = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        self.fc1, self.fc2 = nn.Conv2d(24, 64, 1), nn.Conv2d(64, 24, 1)
        self.scale1, self.scale2 = nn.Parameter(0.1 * torch.ones(24)), nn.Parameter(0.1 * torch.ones(24))
        self.head = nn.Linear(24, CLASSES)

    def forward(self, x):
        x = self.patch(x)
        y = self.norm1(x)
        x = x + self.scale1[:, None, None] * (self.pool(y) - y)
        x = x + self.scale2[:, None, None] * self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return self.head(x.mean([-2, -1]))


class ResMlp(nn.Module):
    def __init__(self, dim=24):
        super().__init__()
        self.patch = nn.Conv2d(3, dim, 4, 4)
        self.alpha, self.beta = nn.Parameter(torch.ones(1, 1, dim)), nn.Parameter(torch.zeros(1, 1, dim))
        self.mix, self.gamma = nn.Linear(16, 16), nn.Parameter(0.1 * torch.ones(dim))
        self.mlp, self.head = Mlp(dim, 64), nn.Linear(dim, CLASSES)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = x + self.gamma * self.mix((self.alpha * x + self.beta).transpose(1, 2)).transpose(1, 2)
        return self.head((x + self.mlp(x)).mean(dim=1))


class RmsNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


class Llama(nn.Module):
    """A small causal transformer with RMSNorm, rotary positions and SwiGLU, read at the last word."""

    def __init__(self, dim=32, heads=2):
        super().__init__()
        self.embed, self.heads = nn.Embedding(50, dim), heads
        self.norm1, self.norm2, self.norm = RmsNorm(dim), RmsNorm(dim), nn.RMSNorm(dim)
        self.wq, self.wk, self.wv, self.wo = (nn.Linear(dim, dim, bias=False) for _ in range(4))
        self.mlp, self.head = SwiGlu(dim, 64), nn.Linear(dim, CLASSES)
        angle = torch.arange(12)[:, None] * 0.1 ** torch.arange(dim // heads // 2)
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def _turn(self, x):
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * self.cos - b * self.sin, a * self.sin + b * self.cos], dim=-1)

    def forward(self, ids):
        x = self.embed(ids)
        b, n, d = x.shape
        y = self.norm1(x)
        q, k, v = (layer(y).view(b, n, self.heads, -1).transpose(1, 2) for layer in (self.wq, self.wk, self.wv))
        y = F.scaled_dot_product_attention(self._turn(q), self._turn(k), v, is_causal=True)
        x = x + self.wo(y.transpose(1, 2).reshape(b, n, d))
        x = x + self.mlp(self.norm2(x))
        return self.head(self.norm(x)[:, -1])


class RotaryAttention(nn.Module):
    """Llama's (its model.py): rotary positions given from outside, fewer heads of keys than of queries."""

    def __init__(self, dim=32, n_heads=4, n_kv_heads=2, qk_norm=False):
        super().__init__()
        self.n_heads, self.n_kv_heads = n_heads, n_kv_heads
        self.n_rep, self.head_dim = n_heads // n_kv_heads, dim // n_heads
        self.wq = nn.Linear(dim, n_heads * self.head_dim, bias=False)
        self.wk = nn.Linear(dim, n_kv_heads * self.head_dim, bias=False)
        self.wv = nn.Linear(dim, n_kv_heads * self.head_dim, bias=False)
        self.wo = nn.Linear(n_heads * self.head_dim, dim, bias=False)
        self.q_norm = nn.RMSNorm(self.head_dim) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(self.head_dim) if qk_norm else nn.Identity()

    def forward(self, x, cos, sin, mask=None):
        bsz, seqlen, _ = x.shape
        xq = self.q_norm(self.wq(x).view(bsz, seqlen, self.n_heads, self.head_dim))
        xk = self.k_norm(self.wk(x).view(bsz, seqlen, self.n_kv_heads, self.head_dim))
        xv = self.wv(x).view(bsz, seqlen, self.n_kv_heads, self.head_dim)
        xq, xk = rotate(xq, cos, sin), rotate(xk, cos, sin)
        xk, xv = (torch.repeat_interleave(side, self.n_rep, dim=2).transpose(1, 2) for side in (xk, xv))
        scores = torch.matmul(xq.transpose(1, 2), xk.transpose(2, 3)) / math.sqrt(self.head_dim)
        if mask is not None:
            scores = scores + mask
        output = torch.matmul(F.softmax(scores.float(), dim=-1).type_as(xq), xv)
        return self.wo(output.transpose(1, 2).contiguous().view(bsz, seqlen, -1))


def rotate(x, cos, sin):
    half = x.shape[-1] // 2
    turned = torch.cat([-x[..., half:], x[..., :half]], dim=-1)
    return x * cos[:, None] + turned * sin[:, None]


class LlamaByModules(nn.Module):
    """The same as its authors divide it: attention and feed-forward are modules of their own."""

    def __init__(self, dim=32, **attention):
        super().__init__()
        self.tok_embeddings = nn.Embedding(50, dim)
        self.attention_norm, self.ffn_norm, self.norm = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention, self.feed_forward = RotaryAttention(dim, **attention), SwiGlu(dim, 64)
        self.output = nn.Linear(dim, CLASSES)
        half = self.attention.head_dim // 2
        angle = torch.arange(12)[:, None] * 0.1 ** torch.arange(half).repeat(2)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, ids):
        h = self.tok_embeddings(ids)
        mask = torch.full((ids.shape[1], ids.shape[1]), float("-inf"), device=ids.device).triu(1)
        h = h + self.attention(self.attention_norm(h), self.cos.to(h.dtype), self.sin.to(h.dtype), mask.to(h.dtype))
        return self.output(self.norm(h + self.feed_forward(self.ffn_norm(h)))[:, -1])


def llama_by_modules():
    return LlamaByModules(n_kv_heads=4)


def llama_grouped_queries():
    return LlamaByModules()


def llama_normalised_queries():
    return LlamaByModules(qk_norm=True, n_kv_heads=4)


def llama_one_key_head():
    return LlamaByModules(n_kv_heads=1)


class CrossAttention(nn.Module):
    """Of a Perceiver or a diffusion model: queries of one sequence, keys and values of another."""

    def __init__(self, query_dim, context_dim, heads=4, dim_head=8):
        super().__init__()
        inner_dim = dim_head * heads
        self.scale, self.heads = dim_head**-0.5, heads
        self.to_q = nn.Linear(query_dim, inner_dim, bias=False)
        self.to_kv = nn.Linear(context_dim, inner_dim * 2, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner_dim, query_dim), nn.Dropout(0.1))

    def forward(self, x, context):
        k, v = self.to_kv(context).chunk(2, dim=-1)
        q, k, v = (side.unflatten(-1, (self.heads, -1)).transpose(1, 2) for side in (self.to_q(x), k, v))
        attention = (q @ k.transpose(-1, -2) * self.scale).softmax(dim=-1)
        return self.to_out((attention @ v).transpose(1, 2).flatten(2))


class Perceiver(nn.Module):
    """Learned queries that read a signal."""

    def __init__(self):
        super().__init__()
        self.latents, self.embed = nn.Parameter(torch.randn(6, 32)), nn.Linear(6, 24)
        self.norm, self.context_norm = nn.LayerNorm(32), nn.LayerNorm(24)
        self.cross, self.mlp, self.head = CrossAttention(32, 24), Mlp(32, 64), nn.Linear(32, CLASSES)

    def forward(self, x):
        latents = self.latents.expand(x.shape[0], -1, -1)
        latents = latents + self.cross(self.norm(latents), self.context_norm(self.embed(x)))
        return self.head((latents + self.mlp(latents)).mean(1))


class DecoderBlock(nn.Module):
    """Reads one sequence by another with torch's own attention."""

    def __init__(self, kdim=24):
        super().__init__()
        self.embed, self.query = nn.Linear(6, kdim), nn.Parameter(torch.randn(1, 3, 24))
        self.cross = nn.MultiheadAttention(24, 3, batch_first=True, kdim=kdim, vdim=kdim)
        self.mlp, self.head = Mlp(24, 64), nn.Linear(24, CLASSES)

    def forward(self, x):
        memory, query = torch.relu(self.embed(x)), self.query.expand(x.shape[0], -1, -1)
        query = query + self.cross(query, memory, memory)[0]
        return self.head((query + self.mlp(query)).mean(1))


def decoder_other_width():
    return DecoderBlock(kdim=16)


class TorchDecoder(nn.Module):
    """DETR's: learned queries, and torch's own decoder over what convolutions see."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1))
        self.query_embed = nn.Parameter(torch.randn(5, 32))
        layer = nn.TransformerDecoderLayer(32, 4, 64, batch_first=True)
        self.decoder, self.fc = nn.TransformerDecoder(layer, 1), nn.Linear(32, CLASSES)

    def forward(self, x):
        memory = self.backbone(x).flatten(2).transpose(1, 2)
        return self.fc(self.decoder(self.query_embed.expand(x.shape[0], -1, -1), memory).mean(1))


class WindowAttention(nn.Module):
    """Swin's as its authors publish it: biases by relative position, and a mask for shifted windows."""

    def __init__(self, dim, window_size, num_heads):
        super().__init__()
        self.dim, self.window_size, self.num_heads = dim, window_size, num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.randn((2 * window_size - 1) ** 2, num_heads))
        coords = torch.stack(torch.meshgrid([torch.arange(window_size)] * 2, indexing="ij")).flatten(1)
        relative_coords = (coords[:, :, None] - coords[:, None, :]).permute(1, 2, 0).contiguous() + window_size - 1
        relative_coords[:, :, 0] *= 2 * window_size - 1
        self.register_buffer("relative_position_index", relative_coords.sum(-1))
        self.qkv, self.attn_drop = nn.Linear(dim, dim * 3), nn.Dropout(0.0)
        self.proj, self.proj_drop = nn.Linear(dim, dim), nn.Dropout(0.0)
        self.softmax = nn.Softmax(dim=-1)

    def forward(self, x, mask=None):
        B_, N, C = x.shape
        qkv = self.qkv(x).reshape(B_, N, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        attn = (q * self.scale) @ k.transpose(-2, -1)
        bias = self.relative_position_bias_table[self.relative_position_index.view(-1)].view(N, N, -1)
        attn = attn + bias.permute(2, 0, 1).contiguous().unsqueeze(0)
        if mask is not None:
            nW = mask.shape[0]
            attn = attn.view(B_ // nW, nW, self.num_heads, N, N) + mask.unsqueeze(1).unsqueeze(0)
            attn = attn.view(-1, self.num_heads, N, N)
        x = (self.attn_drop(self.softmax(attn)) @ v).transpose(1, 2).reshape(B_, N, C)
        return self.proj_drop(self.proj(x))


class PublishedSwinBlock(nn.Module):
    def __init__(self, dim, input_resolution, num_heads, window_size, shift_size):
        super().__init__()
        self.input_resolution, self.window_size, self.shift_size = input_resolution, window_size, shift_size
        self.norm1, self.attn = nn.LayerNorm(dim), WindowAttention(dim, window_size, num_heads)
        self.norm2, self.mlp = nn.LayerNorm(dim), Mlp(dim, 4 * dim)
        attn_mask = None
        if shift_size > 0:
            img_mask = torch.zeros((1, *input_resolution, 1))
            slices = (slice(-window_size), slice(-window_size, -shift_size), slice(-shift_size, None))
            for cnt, (h, w) in enumerate((h, w) for h in slices for w in slices):
                img_mask[:, h, w, :] = cnt
            mask_windows = window_partition(img_mask, window_size).squeeze(-1)
            attn_mask = mask_windows.unsqueeze(1) - mask_windows.unsqueeze(2)
            attn_mask = attn_mask.masked_fill(attn_mask != 0, -100.0).masked_fill(attn_mask == 0, 0.0)
        self.register_buffer("attn_mask", attn_mask)

    def forward(self, x):
        H, W = self.input_resolution
        B, L, C = x.shape
        shortcut = x
        x = self.norm1(x).view(B, H, W, C)
        if self.shift_size > 0:
            x = torch.roll(x, shifts=(-self.shift_size, -self.shift_size), dims=(1, 2))
        x = window_reverse(self.attn(window_partition(x, self.window_size), self.attn_mask), self.window_size, H, W)
        if self.shift_size > 0:
            x = torch.roll(x, shifts=(self.shift_size, self.shift_size), dims=(1, 2))
        x = shortcut + x.view(B, H * W, C)
        return x + self.mlp(self.norm2(x))


class PatchMerging(nn.Module):
    def __init__(self, input_resolution, dim):
        super().__init__()
        self.input_resolution = input_resolution
        self.reduction, self.norm = nn.Linear(4 * dim, 2 * dim, bias=False), nn.LayerNorm(4 * dim)

    def forward(self, x):
        H, W = self.input_resolution
        B, L, C = x.shape
        x = x.view(B, H, W, C)
        x0, x1 = x[:, 0::2, 0::2, :], x[:, 1::2, 0::2, :]
        x2, x3 = x[:, 0::2, 1::2, :], x[:, 1::2, 1::2, :]
        x = torch.cat([x0, x1, x2, x3], -1)
        x = x.view(B, -1, 4 * C)
        return self.reduction(self.norm(x))


class PublishedSwin(nn.Module):
    """The whole of it, as in Microsoft's own repository."""

    def __init__(self):
        super().__init__()
        self.patch_embed, self.patch_norm = nn.Conv2d(3, 16, 2, 2), nn.LayerNorm(16)
        first = [PublishedSwinBlock(16, (8, 8), 2, 4, shift) for shift in (0, 2)]
        self.layers = nn.Sequential(*first, PatchMerging((8, 8), 16), PublishedSwinBlock(32, (4, 4), 4, 4, 0))
        self.norm, self.avgpool, self.head = nn.LayerNorm(32), nn.AdaptiveAvgPool1d(1), nn.Linear(32, CLASSES)

    def forward(self, x):
        x = self.patch_norm(self.patch_embed(x).flatten(2).transpose(1, 2))
        x = self.norm(self.layers(x))
        x = self.avgpool(x.transpose(1, 2))
        return self.head(torch.flatten(x, 1))


class Recurrent(nn.Module):
    """A classifier of signals [N, T, F] by the last step of an LSTM or a GRU."""

    def __init__(self, kind, *, layers=1, bidirectional=False):
        super().__init__()
        self.inp = nn.Linear(6, 16)
        self.rnn = kind(16, 24, layers, batch_first=True, bidirectional=bidirectional)
        width = 48 if bidirectional else 24
        self.fc1, self.fc2 = nn.Linear(width, 32), nn.Linear(32, CLASSES)

    def forward(self, x):
        x, _ = self.rnn(torch.relu(self.inp(x)))
        return self.fc2(torch.relu(self.fc1(x[:, -1])))


def lstm():
    return Recurrent(nn.LSTM)


def gru():
    return Recurrent(nn.GRU)


def stacked_bidirectional_lstm():
    return Recurrent(nn.LSTM, layers=2, bidirectional=True)


class ConvLstm(nn.Module):
    """DeepConvLSTM on accelerometers."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(6, 16, 5, padding=2), nn.Conv1d(16, 24, 5, padding=2)
        self.lstm, self.fc = nn.LSTM(24, 16, batch_first=True), nn.Linear(16, CLASSES)

    def forward(self, x):
        x = F.relu(self.conv2(F.relu(self.conv1(x.transpose(1, 2)))))
        _, (hidden, _) = self.lstm(x.transpose(1, 2))
        return self.fc(hidden[-1])


class GruWords(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.gru = nn.Embedding(50, 24), nn.GRU(24, 16, batch_first=True)
        self.fc = nn.Linear(16, CLASSES)

    def forward(self, ids):
        _, hidden = self.gru(self.embedding(ids))
        return self.fc(hidden.squeeze(0))


class TextCnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(50, 24)
        self.convs = nn.ModuleList([nn.Conv1d(24, 16, size, padding=size // 2) for size in (3, 5)])
        self.fc = nn.Linear(32, CLASSES)

    def forward(self, ids):
        x = self.embedding(ids).transpose(1, 2)
        return self.fc(torch.cat([F.relu(conv(x)).max(dim=2).values for conv in self.convs], dim=1))


class EmbeddingBag(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.fc1, self.fc2 = nn.Embedding(50, 32), nn.Linear(32, 24), nn.Linear(24, CLASSES)

    def forward(self, ids):
        return self.fc2(torch.relu(self.fc1(self.embedding(ids).mean(1))))


class Chomp(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.size = size

    def forward(self, x):
        return x[:, :, : -self.size].contiguous()


class Tcn(nn.Module):
    """A causal convolution network with weight_norm, as in its paper."""

    def __init__(self):
        super().__init__()

        def block(inputs, outputs, dilation):
            conv = nn.utils.weight_norm(nn.Conv1d(inputs, outputs, 3, padding=2 * dilation, dilation=dilation))
            return nn.Sequential(conv, Chomp(2 * dilation), nn.ReLU(), nn.Dropout(0.1))

        self.net = nn.Sequential(block(6, 16, 1), block(16, 24, 2))
        self.linear = nn.Linear(24, CLASSES)

    def forward(self, x):
        return self.linear(self.net(x.transpose(1, 2))[:, :, -1])


class WaveNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.start = nn.Conv1d(6, 16, 1)
        self.filters = nn.ModuleList([nn.Conv1d(16, 24, 3, padding=d, dilation=d) for d in (1, 2)])
        self.gates = nn.ModuleList([nn.Conv1d(16, 24, 3, padding=d, dilation=d) for d in (1, 2)])
        self.residuals = nn.ModuleList([nn.Conv1d(24, 16, 1) for _ in range(2)])
        self.skips = nn.ModuleList([nn.Conv1d(24, 32, 1) for _ in range(2)])
        self.end = nn.Linear(32, CLASSES)

    def forward(self, x):
        x, total = self.start(x.transpose(1, 2)), 0
        for filt, gate, residual, skip in zip(self.filters, self.gates, self.residuals, self.skips, strict=True):
            y = torch.tanh(filt(x)) * torch.sigmoid(gate(x))
            total, x = total + skip(y), x + residual(y)
        return self.end(F.relu(total).mean(-1))


def signal_cnn():
    return nn.Sequential(
        nn.Conv1d(6, 16, 5, stride=2),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.MaxPool1d(2),
        nn.Conv1d(16, 24, 3, padding=1),
        nn.BatchNorm1d(24),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(24, CLASSES),
    )


def depthwise_signals():
    return nn.Sequential(
        nn.Conv1d(6, 16, 1),
        nn.ReLU(),
        nn.Conv1d(16, 16, 5, padding=2, groups=16),
        nn.Conv1d(16, 32, 1),
        nn.GroupNorm(4, 32),
        nn.ReLU(),
        nn.AdaptiveMaxPool1d(1),
        nn.Flatten(),
        nn.Linear(32, CLASSES),
    )


def mlp_table():
    return nn.Sequential(
        nn.Linear(12, 32),
        nn.BatchNorm1d(32),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(32, 32),
        nn.SELU(),
        nn.AlphaDropout(0.1),
        nn.Linear(32, CLASSES),
    )


def mlp_layer_norm():
    return nn.Sequential(
        nn.Linear(12, 32),
        nn.LayerNorm(32),
        nn.SiLU(),
        nn.Linear(32, 24),
        nn.LayerNorm(24),
        nn.Mish(),
        nn.Linear(24, CLASSES),
    )


class Categories(nn.Module):
    """A table with categories: embeddings beside numbers."""

    def __init__(self):
        super().__init__()
        self.embeddings = nn.ModuleList([nn.Embedding(10, 6), nn.Embedding(7, 4)])
        self.bn, self.fc1, self.fc2 = nn.BatchNorm1d(12), nn.Linear(22, 32), nn.Linear(32, CLASSES)

    def forward(self, numbers, categories):
        x = [embedding(categories[:, index]) for index, embedding in enumerate(self.embeddings)]
        return self.fc2(F.relu(self.fc1(torch.cat([*x, self.bn(numbers)], dim=1))))


class CrossNet(nn.Module):
    """Deep and cross."""

    def __init__(self):
        super().__init__()
        self.cross = nn.Linear(12, 12)
        self.deep = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU())
        self.out = nn.Linear(36, CLASSES)

    def forward(self, x):
        return self.out(torch.cat([x * self.cross(x) + x, self.deep(x)], dim=-1))


class Experts(nn.Module):
    """A soft mixture of experts."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(12, 3)
        self.experts = nn.ModuleList([nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 16)) for _ in range(3)])
        self.out = nn.Linear(16, CLASSES)

    def forward(self, x):
        weights = torch.softmax(self.gate(x), dim=-1)
        return self.out(sum(weights[:, i : i + 1] * expert(x) for i, expert in enumerate(self.experts)))


class TiedAutoencoder(nn.Module):
    """A decoder that uses the encoder's weight the other way round."""

    def __init__(self):
        super().__init__()
        self.encoder, self.hidden = nn.Linear(12, 24), nn.Linear(12, 32)
        self.bias, self.out = nn.Parameter(torch.zeros(12)), nn.Linear(32, CLASSES)

    def forward(self, x):
        code = torch.relu(self.encoder(x))
        return self.out(torch.relu(self.hidden(F.linear(code, self.encoder.weight.t(), self.bias))))


class TiedEmbedding(nn.Module):
    """The next word, by the table that the words were read with."""

    def __init__(self):
        super().__init__()
        self.embedding, self.mix = nn.Embedding(30, 16), nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16))
        self.decoder = nn.Linear(16, 30, bias=False)
        self.decoder.weight = self.embedding.weight

    def forward(self, ids):
        return self.decoder(self.mix(self.embedding(ids).mean(1)))


class GraphConvolution(nn.Module):
    """Nodes with a dense, normalised adjacency that is an input."""

    def __init__(self):
        super().__init__()
        self.w1, self.w2, self.fc = nn.Linear(6, 24), nn.Linear(24, 16), nn.Linear(16, CLASSES)

    def forward(self, nodes, adjacency):
        x = torch.relu(adjacency @ self.w1(nodes))
        x = torch.relu(adjacency @ self.w2(x))
        return self.fc(x.mean(1))


class PointNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv1d(6, 16, 1), nn.BatchNorm1d(16)
        self.conv2, self.bn2 = nn.Conv1d(16, 48, 1), nn.BatchNorm1d(48)
        self.fc1, self.fc2 = nn.Linear(48, 24), nn.Linear(24, CLASSES)

    def forward(self, points):
        x = F.relu(self.bn1(self.conv1(points.transpose(1, 2))))
        x = torch.max(self.bn2(self.conv2(x)), 2, keepdim=True)[0].view(-1, 48)
        return self.fc2(F.relu(self.fc1(x)))
