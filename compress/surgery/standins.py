"""What a trace is shown instead of modules whose inside autograd does not show: layers that carry the same channels."""

from typing import Any

import torch
from torch import Tensor, nn

from compress.models.attention import Attention, Counted, counted
from compress.surgery import layers


class _Straight(Attention):
    """Attention as a trace may see it: the tokens' channels in, and out of the layer that reads the heads."""

    def forward(self, *given: Tensor, **named: Any) -> Any:
        sides = [*given, *(named[name] for name in ("query", "key", "value") if name in named)]
        tokens = -2 if self.wiring.batch_first or sides[0].dim() == 2 else 0
        if not self.wiring.multihead:
            sides = [sides[0]] * 3
        width, written = self.output.in_features, torch.zeros(())
        for path, x in zip(self.wiring.inputs, sides, strict=False):
            side = self.get_submodule(path)(x)[..., :width]
            # Another sequence has another length.
            written = written + (side if x is sides[0] else side.mean(tokens, keepdim=True))
        result = self.output(written)
        return (result, None) if self.wiring.multihead else result


class _Unit(nn.Module):
    """A recurrent layer as a trace may see it: each hidden unit is the same one in all layers and directions."""

    def __init__(self, rnn: nn.RNNBase) -> None:
        super().__init__()
        self.unit = nn.Linear(rnn.input_size, rnn.hidden_size, dtype=torch.float64)
        self.batch_first, self.cell = rnn.batch_first, isinstance(rnn, nn.LSTM)
        self.directions, self.layers = 1 + rnn.bidirectional, rnn.num_layers

    def forward(self, x: Tensor, _: Any = None) -> Any:
        states = self.unit(x)
        last = states[:, -1] if self.batch_first else states[-1]
        hidden = last.unsqueeze(0).expand(self.directions * self.layers, -1, -1)
        final = (hidden, hidden) if self.cell else hidden
        # Each direction by an operation of its own: a trace tells parts of a concatenation apart by what made them.
        return torch.cat([states * (1 + number) for number in range(self.directions)], dim=-1), final


def stand_in(model: nn.Module, inputs: tuple[Tensor, ...]) -> dict[nn.Module, str]:
    """Put stand-ins into a model, in place.

    Args:
        model: a copy in float64, to be traced and thrown away.
        inputs: positional arguments for one call.

    Returns:
        Layers in stand-ins, with the path of the module that they stand for.
    """
    plain: set[nn.Module] = set()
    hooks = [
        module.register_forward_pre_hook(lambda module, given: plain.add(module) if _is_plain(given) else None)
        for module in model.modules()
        if isinstance(module, nn.RNNBase)
    ]
    try:
        with torch.no_grad():
            model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    aliases: dict[nn.Module, str] = {}
    for path, module in [*model.named_modules()]:
        if isinstance(module, Attention):
            module.__class__ = _Straight
        elif (wiring := counted(module)) is not None:
            _shorten(module, wiring)
        elif isinstance(module, nn.RNNBase) and module in plain and layers.layout(module, "out") is not None and path:
            owner, _, name = path.rpartition(".")
            unit = _Unit(module)
            setattr(model.get_submodule(owner), name, unit)
            aliases[unit.unit] = path
    return aliases


def _shorten(module: nn.Module, wiring: Counted) -> None:
    """Hide what an attention module does between its layers: the layer that reads all heads hangs on what writes them.

    The rest of its code stays, so that what it does before and after, and whatever it is called with, is seen.
    """
    written: list[Tensor] = []

    def keep(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> None:
        written.append(output)

    def hang(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        tie = sum(tensor.sum().view([1] * given[0].ndim) for tensor in written)
        written.clear()
        return (given[0].detach() + tie, *given[1:])

    for path in wiring.inputs:
        module.get_submodule(path).register_forward_hook(keep)
    module.get_submodule(wiring.output).register_forward_pre_hook(hang)


def _is_plain(given: tuple[Any, ...]) -> bool:
    """Whether a batch of padded sequences is all that a recurrent layer is given."""
    return isinstance(given[0], Tensor) and given[0].dim() == 3 and len(given) == 1
