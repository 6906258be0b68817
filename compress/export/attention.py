"""Scaled dot-product attention as the few nodes that ONNX Runtime runs fastest.

The exporter's own translation transposes the keys through a chain of reshapes, scales queries and keys each by the root
of the scale, and looks for NaN in every attention weight, which its finite mask cannot give. Here the scale follows the
product, so that ONNX Runtime folds it into the product, and the graph is the one that eager attention gives. What that
saves is in docs/encoders.md.
"""

from typing import Any

import torch
from onnxscript import ir, opset18
from onnxscript.function_libs.torch_lib.ops.nn import aten_scaled_dot_product_attention

exporters_own: Any = aten_scaled_dot_product_attention
op: Any = opset18  # its types are those of eager evaluation; here the arguments are symbolic
_MASKED = torch.finfo(torch.float32).min  # not infinite: a row without one token to look at must not give NaN


def translate_attention(  # noqa: PLR0913 - the operator's own signature, on symbolic values
    query: ir.Value,
    key: ir.Value,
    value: ir.Value,
    attn_mask: ir.Value | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> ir.Value:
    """``softmax(scale * query key^T + mask) value``; the exporter's own where it is causal or heads are shared.

    Where a boolean mask allows a row nothing, the row is the mean of the values, as in eager attention and unlike
    torch's fused kernels, which give zero.

    Args:
        query: [B, H, L, E]; other ranks, and an E that is not fixed, are left to the exporter's own too.
        key: [B, H, S, E].
        value: [B, H, S, Ev].
        attn_mask: boolean (true: look) or added to the scores; broadcast to [B, H, L, S].
        dropout_p: 0 in inference mode.
        is_causal: mask the upper triangle.
        scale: default 1 / sqrt(E).
        enable_gqa: fewer heads in `key` and `value` than in `query`.
    """
    shape = query.shape
    assert shape is not None, "the exporter knows the rank of every value"
    size = shape[-1]
    if is_causal or enable_gqa or len(shape) != 4 or not isinstance(size, int):
        return exporters_own(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
    scores = op.MatMul(query, op.Transpose(key, perm=[0, 1, 3, 2]))
    scores = op.Mul(scores, size**-0.5 if scale is None else scale)
    if attn_mask is not None:
        boolean = attn_mask.dtype == ir.DataType.BOOL
        scores = op.Add(scores, op.Where(attn_mask, 0.0, _MASKED) if boolean else attn_mask)
    return op.MatMul(op.Softmax(scores, axis=-1), value)


TRANSLATIONS = {torch.ops.aten.scaled_dot_product_attention.default: translate_attention}
