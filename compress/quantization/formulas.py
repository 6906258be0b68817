"""Scales and integers.

For a uint8 activation with range [low, high], low <= 0 <= high: scale = (high - low) / 255, zero point =
round(-low / scale). For a weight: scale = max |w| / 127 over each output channel (63 with `reduce_range`), q =
round(w / scale), ties to even; for an embedding the same over each row of its table, always with 127. For a bias: q =
round(b / (s_x * s_w)) in int32; where that would overflow (a channel whose weights are almost zero but whose bias is
not, which BatchNorm folding and pruning both make), s_w is raised until it fits.
"""

import numpy as np
import onnx

from compress.quantization.view import attribute

UINT8_STEPS = 255
INT8_MAX = 127
REDUCED_MAX = 63
INT32_MAX = 2**31 - 1


def activation_scale(low: float, high: float) -> tuple[np.float32, np.uint8]:
    """Scale and zero point of a uint8 activation; an empty range gets scale 1."""
    scale = np.float32((high - low) / UINT8_STEPS) or np.float32(1.0)
    return scale, np.uint8(np.clip(np.round(-low / scale), 0, UINT8_STEPS))


def weight_scale(
    weight: np.ndarray,
    *,
    axis: int,
    reduce_range: bool = False,
    bias: np.ndarray | None = None,
    input_scale: float = 0.0,
) -> np.ndarray:
    """Scale per output channel, float32, every entry positive.

    Args:
        weight: any rank.
        axis: the output channels.
        reduce_range: 7 bits instead of 8.
        bias: one entry per output channel, when it becomes int32.
        input_scale: scale of the activation that meets the weight; needed with `bias`.
    """
    other = tuple(index for index in range(weight.ndim) if index != axis)
    scale = np.abs(weight).max(axis=other) / (REDUCED_MAX if reduce_range else INT8_MAX)
    if bias is not None:
        # Half of the int32 range, because the products are added to the bias.
        scale = np.maximum(scale, 2.0 * np.abs(bias) / (input_scale * INT32_MAX))
    return np.where(scale > 0, scale, 1.0).astype(np.float32)


def quantize_weight(weight: np.ndarray, scale: np.ndarray, *, axis: int) -> np.ndarray:
    """The nearest int8 for every weight."""
    shape = [1] * weight.ndim
    shape[axis] = -1
    return np.clip(np.round(weight / scale.reshape(shape)), -INT8_MAX, INT8_MAX).astype(np.int8)


def output_axis(node: onnx.NodeProto) -> int:
    """The axis of a layer's weight that holds its output channels; of an embedding's table, its rows."""
    if node.op_type in {"Conv", "Gather"}:
        return 0
    return 0 if node.op_type == "Gemm" and attribute(node, "transB", 0) else 1
