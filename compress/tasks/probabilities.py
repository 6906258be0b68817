"""Outputs that are probabilities already, where every loss, every bundle and every reader takes logits."""

import inspect

from torch import Tensor, nn

from compress.config.user_modules import is_users
from compress.errors import ModelError

TOLERANCE = 1e-3  # of a row's sum; a thousand classes in float32 add up to 1 within 1e-5


def are_probabilities(outputs: Tensor) -> bool:
    """Whether rows [N, C] went through softmax: each adds up to 1, and nothing is negative."""
    off = (outputs.cpu().double().sum(dim=1) - 1).abs()
    return outputs.shape[1] > 1 and bool((outputs >= 0).all() and (off < TOLERANCE).all())


def are_log_probabilities(outputs: Tensor) -> bool:
    """Whether rows [N, C] went through log-softmax: their exponentials add up to 1, and nothing is positive."""
    off = outputs.cpu().double().logsumexp(dim=1).abs()
    return outputs.shape[1] > 1 and bool((outputs <= 0).all() and (off < TOLERANCE).all())


def refuse_probabilities(outputs: Tensor, module: nn.Module, *, where: object) -> None:
    """Refuse a classifier whose outputs are probabilities, or their logarithms.

    Softmax of probabilities is almost the same for all classes, so that such a teacher says next to nothing. Logarithms
    give the losses and decisions of logits, but are none: a layer too many would be measured, quantized and shipped.

    Args:
        outputs: of some samples, [N, C].
        module: that gave them; the place where it does is looked for.
        where: it comes from.

    Raises:
        ModelError: with the line to change.
    """
    word = "softmax" if are_probabilities(outputs) else "log-softmax" if are_log_probabilities(outputs) else ""
    if not word:
        return
    sums = "add up to 1 and none is negative" if word == "softmax" else "have exponentials that add up to 1"
    raise ModelError(
        f"the model's outputs went through {word} already, and the loss applies softmax again",
        expected="logits: what goes into the softmax",
        got=f"outputs that {sums}, for each of {len(outputs)} rows",
        where=where,
        hint=f"return the logits: {_place(module) or f'leave out the {word} at its end'}",
    )


def _place(module: nn.Module) -> str:
    """Return where a softmax is applied, from the outermost module on: a line of the user's, or a layer's name."""
    for kind in dict.fromkeys(map(type, module.modules())):
        file = inspect.getsourcefile(kind) if is_users(inspect.getfile(kind)) else None
        if file is None or "forward" not in vars(kind):
            continue
        lines, first = inspect.getsourcelines(kind.forward)
        found = [first + number for number, line in enumerate(lines) if "softmax" in line.lower()]
        if found:
            return f"{file}:{found[-1]}: {lines[found[-1] - first].strip()}"
    layers = [name for name, layer in module.named_modules() if isinstance(layer, nn.Softmax | nn.LogSoftmax)]
    return f"leave out the layer {layers[-1]}" if layers else ""
