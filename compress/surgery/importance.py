"""How much each channel of each group matters; a channel of a group of layers is a whole layer.

Three scores, one form: group name -> float64 [width], larger is more important. `magnitude` needs no data; `taylor`
differentiates the loss that the student is trained on, and falls back to the Fisher score of the same gates where that
loss has no gradient to rank by.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from compress.errors import StageError
from compress.loss.taps import evaluating
from compress.surgery import layers
from compress.surgery.groups import Group
from compress.surgery.verify import scale_channels, with_state
from compress.tasks.task import Problem

Method = Literal["magnitude", "taylor", "fisher"]

# The teacher's outputs are stored from a bfloat16 pass, whose 8 significant bits leave errors of about 0.01 in logits
# of ordinary size. A gradient this much below that of a sampled label is rounding noise.
NOISE_FLOOR = 1e-2


@dataclass(frozen=True)
class Importance:
    """Scores, and how they came about."""

    scores: dict[str, Tensor]
    """Group name -> float64 [width]."""
    method: Method
    """What was computed; "fisher" where "taylor" was asked for and the loss had no gradient."""
    samples: int
    """Units (samples, or labelled words) that were differentiated; 0 for magnitude."""
    gradient_ratio: float | None
    """Root mean square of the loss's gradient over that of a sampled label's, per gate; None for magnitude."""


@torch.no_grad()
def magnitude(model: nn.Module, groups: Sequence[Group]) -> Importance:
    """L2 norm of all parameters of a channel, over the mean norm in its group.

    The group norm of DepGraph (Fang et al., arXiv 2301.12900, section 3.3): weights, biases and normalisation in every
    coupled layer count. Dividing by the group's mean makes groups of one class comparable whatever their layers' sizes;
    groups of different classes stay incomparable.
    """
    scores = {}
    for group in groups:
        squares = torch.zeros(group.width, dtype=torch.float64)
        for member in group.members:
            module, found = layers.find(model, member.path, member.side)
            assert found is not None
            for rows in layers.rows(module, member.side, found):
                per_index = rows.detach().cpu().double().square().sum(1)
                squares.index_add_(0, member.channels, per_index[member.indices])
        norms = squares.sqrt()
        scores[group.name] = norms / norms.mean().clamp(min=torch.finfo(torch.float64).tiny)
    return Importance(scores, "magnitude", samples=0, gradient_ratio=None)


def taylor(
    model: nn.Module,
    groups: Sequence[Group],
    batches: Iterable[Any],
    *,
    loss: Callable[[nn.Module, Any], Tensor],
    logits: Callable[[nn.Module, Any], Tensor],
    seed: int,
    problem: Problem = "single-label",
    noise_floor: float = NOISE_FLOOR,
) -> Importance:
    """Mean over samples of the squared first-order change of the loss when a channel is removed.

    Each channel has a gate of value 1 that multiplies it wherever a layer reads it. The derivative of one sample's loss
    by the gate, squared, is the Taylor-FO score of Molchanov et al. (arXiv 1906.10771, equation 8 with the gates of
    section 3.3), with two deviations: the square is taken per sample, not per batch, so that samples which disagree do
    not cancel, and one gate spans all coupled layers, so that nothing is counted twice. The derivative equals the sum
    of weight times gradient over the reading columns; what biases and normalisation add to the channel is in it. No
    parameter needs a gradient, so frozen and unused ones do no harm.

    Channels that leave together, such as those of an attention head, share a gate, and all of them have its score. The
    gate of a whole layer stands between what it was given and what it adds to that, x + gate (layer(x) - x), so that 0
    is the bypass, before or after normalisation. So all scores of one model are in one unit, squared nats.

    A student that equals its teacher has a loss without gradient, and first order ranks nothing. So the same gates are
    also scored by labels drawn from the model's own outputs: that is the Fisher information, the curvature of the KL
    divergence at the match point. Where the loss's gradient is below `noise_floor` times the sampled label's (root mean
    squares over all gates and samples), the Fisher score is returned, and the result says so.

    Args:
        model: run in eval mode; left as it was.
        groups: its prunable groups.
        batches: anything that `loss` and `logits` take; read once.
        loss: losses [units] in nats, one or more units a sample; each may depend on its own sample's input alone.
        logits: outputs [units, ..., classes].
        seed: of the drawn labels.
        problem: what the outputs of a unit are: one distribution, independent probabilities, or the means of normal
            distributions of variance 1.
        noise_floor: see above, dimensionless.

    Raises:
        StageError: no batches, or a gradient that is not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    first: dict[str, Tensor] = {group.name: torch.zeros(group.width, dtype=torch.float64) for group in groups}
    fisher = {name: total.clone() for name, total in first.items()}
    samples = 0
    with _evaluating(model):
        for batch in batches:
            with _Gates(model, groups) as gates:
                per_sample = loss(model, batch)
                _accumulate(first, gates.derivatives(per_sample.sum()), groups)
            with _Gates(model, groups) as gates:
                drawn = _sample_label_loss(logits(model, batch), generator, problem=problem)
                _accumulate(fisher, gates.derivatives(drawn), groups)
            samples += len(per_sample)
    if not samples:
        raise StageError("Importance needs data", expected="at least one batch", got="none")
    if not all(bool(total.isfinite().all()) for total in (*first.values(), *fisher.values())):
        raise StageError(
            "The loss has no finite gradient", where="importance", hint="check the weights and the data for NaN"
        )
    strength, reference = (sum(float(total.sum()) for total in totals.values()) for totals in (first, fisher))
    ratio = (strength / reference) ** 0.5 if reference else float("inf")
    method: Method = "taylor" if ratio >= noise_floor else "fisher"
    chosen = first if method == "taylor" else fisher
    return Importance({name: total / samples for name, total in chosen.items()}, method, samples, ratio)


def _accumulate(totals: dict[str, Tensor], derivatives: dict[str, Tensor], groups: Sequence[Group]) -> None:
    for group in groups:
        if (found := derivatives.get(group.name)) is not None:
            per_channel = found.cpu().double()  # in this order: not every device has float64
            # One gate for all channels of an atom: its derivative is the sum of theirs.
            atoms = per_channel.new_zeros(len(per_channel), int(group.atoms.max()) + 1)
            totals[group.name] += atoms.index_add_(1, group.atoms, per_channel).square().sum(0)[group.atoms]


def _sample_label_loss(outputs: Tensor, generator: torch.Generator, *, problem: Problem) -> Tensor:
    """Sum of the negative log-likelihoods of labels drawn from what the outputs themselves say."""
    flat = outputs.float().flatten(0, -2)
    said = flat.detach().cpu()
    if problem == "multi-label":
        labels = torch.bernoulli(said.sigmoid(), generator=generator).to(flat.device)
        return nn.functional.binary_cross_entropy_with_logits(flat, labels, reduction="sum")
    if problem == "regression":
        labels = (said + torch.randn(said.shape, generator=generator)).to(flat.device)
        return nn.functional.mse_loss(flat, labels, reduction="sum") / 2
    labels = torch.multinomial(said.softmax(-1), 1, generator=generator).flatten().to(flat.device)
    return nn.functional.cross_entropy(flat, labels, reduction="sum")


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode, and no gradients for parameters: only gates need them."""
    flags = {parameter: parameter.requires_grad for parameter in model.parameters()}
    try:
        model.requires_grad_(False)
        with evaluating(model), torch.enable_grad():
            yield
    finally:
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)


class _Gates:
    """Gates [N, width] of value 1 on every channel of every group, at the inputs of the layers that read them."""

    def __init__(self, model: nn.Module, groups: Sequence[Group]) -> None:
        self._model = model
        self._widths = {group.name: group.width for group in groups}
        self._readers: dict[str, list[tuple[str, Tensor, Tensor]]] = defaultdict(list)
        self._layers: dict[str, tuple[str, int]] = {}
        for group in groups:
            for member in group.members:
                if group.kind == "layers":
                    pairs = zip(member.channels.tolist(), member.indices.tolist(), strict=True)
                    self._layers |= {f"{member.path}.{index}": (group.name, channel) for channel, index in pairs}
                elif member.side == "in":
                    self._readers[member.path].append((group.name, member.channels, member.indices))
        self._gates: dict[str, Tensor] = {}
        self._samples = 0

    def __enter__(self) -> "_Gates":
        self._hooks = [
            self._model.register_forward_pre_hook(self._count, with_kwargs=True),
            *(self._model.get_submodule(path).register_forward_pre_hook(self._hook(path)) for path in self._readers),
            *(self._model.get_submodule(path).register_forward_hook(self._bypass(path)) for path in self._layers),
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _count(self, _: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        self._samples = next((len(value) for value in (*arguments, *named.values()) if isinstance(value, Tensor)), 0)

    def _hook(self, path: str) -> Callable[..., tuple[Any, ...]]:
        def hook(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
            tensor = arguments[0]
            dim = layers.channel_dim(module)
            factors = tensor.new_ones(len(tensor), tensor.shape[dim])
            for name, channels, indices in self._readers[path]:
                gate = self._gate(name, tensor)
                factors = factors.index_copy(1, indices.to(tensor.device), gate[:, channels.to(tensor.device)])
            return (scale_channels(tensor, factors, dim), *arguments[1:])

        return hook

    def _bypass(self, path: str) -> Callable[..., Any]:
        name, channel = self._layers[path]

        def hook(_: nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
            given = arguments[0]
            state = output[0] if isinstance(output, tuple) else output
            gate = self._gate(name, state)[:, channel].view(-1, *[1] * (state.ndim - 1))
            return with_state(output, given + gate * (state - given))

        return hook

    def _gate(self, name: str, tensor: Tensor) -> Tensor:
        if name not in self._gates:
            samples = self._samples or len(tensor)
            self._gates[name] = tensor.new_ones(samples, self._widths[name], requires_grad=True)
        gate = self._gates[name]
        if len(tensor) % len(gate):  # no sample has a place of its own, as where time comes first: all share alike
            return gate.mean(0, keepdim=True).expand(len(tensor), -1)
        if len(tensor) == len(gate):
            return gate
        return gate.repeat_interleave(len(tensor) // len(gate), 0)  # windows and patches of a sample are in one piece

    def derivatives(self, total: Tensor) -> dict[str, Tensor]:
        """Derivative of every sample's loss by every gate, [N, width] per group, for gates that have an effect."""
        names = list(self._gates)
        found = torch.autograd.grad(total, [self._gates[name] for name in names], allow_unused=True)
        return {name: value for name, value in zip(names, found, strict=True) if value is not None}
