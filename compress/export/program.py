"""A model that writes as a program: an encoder and a decoder with a cache, two graphs that are driven together.

The encoder gives the keys and values of a source for every layer of the decoder, once; the decoder reads one symbol and
what it kept of those before. Between them they are driven by `compress.export.decoding`, which ships with them.

A module becomes a program when it has, besides ``forward(source_ids, source_mask, target_ids)`` for training:

* ``encode(source_ids, source_mask)``: cross keys and values [N, heads, S, size], layer by layer;
* ``empty_past(cross)``: the cache before the first symbol, [N, heads, 0, size], layer by layer;
* ``step(token, source_mask, cross, past)``: logits [N, V] and the longer cache.

A causal model is one, too (`compress.models.causal`): its source is the prompt, and the cross keys and values are those
of its own layers; what else is kept of a prompt may follow them, [N, 1, S, 1].
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.errors import StageError
from compress.export.decoding import Decoder, Writing, Written
from compress.export.deployable import Deployable
from compress.export.graph import OPSET, to_onnx
from compress.export.parity import FP32_TOLERANCE, difference
from compress.export.program_file import DECODER, ENCODER
from compress.models.fold import duplicate
from compress.tasks.signature import Signature
from compress.tasks.signature import Tensor as Declared

MIN_EQUAL_TEXTS = 0.995  # of the sequences that a float program writes, those that torch writes too
EXAMPLE = 2, 3  # batch and length that graphs are traced with


@dataclass(frozen=True)
class Part:
    """One graph of a program, before it is one.

    Attributes:
        module: the model with the part's function as its ``forward``; it shares the weights.
        signature: of that function.
        example: its arguments.
    """

    module: nn.Module
    signature: Signature
    example: tuple[Tensor, ...]


def split(module: nn.Module) -> Mapping[str, Part]:
    """Return the parts of a model that writes, by the name of their graph.

    Args:
        module: as the page's head says; not changed.

    Raises:
        StageError: when it is no such model.
    """
    if not all(hasattr(module, name) for name in ("encode", "step", "empty_past")):
        raise StageError(
            "the model cannot write step by step",
            expected="encode, empty_past and step besides forward, as compress.models.transducer has them",
            got=type(module).__name__,
        )
    plain: Any = duplicate(module).cpu().eval()
    rows, length = EXAMPLE
    ids, token = torch.ones(rows, length, dtype=torch.int64), torch.ones(rows, 1, dtype=torch.int64)
    with torch.no_grad():
        cross = plain.encode(ids, torch.ones_like(ids))
        _, past = plain.step(token, torch.ones_like(ids), cross, plain.empty_past(cross))
        logits, past = plain.step(token, torch.ones_like(ids), cross, past)
    sources = (_declare("source_ids", "int64", "batch", "source"), _declare("source_mask", "int64", "batch", "source"))
    keys, kept = _states("cross", cross, "source"), _states("past", past, "past")
    encoder = Signature(inputs=sources, outputs=keys)
    decoder = Signature(
        inputs=(_declare("token", "int64", "batch", 1), sources[1], *keys, *kept),
        outputs=(
            _declare("logits", "float32", "batch", logits.shape[1]),
            *_states("present", past, "past + 1"),
        ),
    )
    return {
        ENCODER: Part(_with_forward(module, _encode), encoder, (ids, torch.ones_like(ids))),
        DECODER: Part(
            _with_forward(module, _step_of(len(cross))), decoder, (token, torch.ones_like(ids), *cross, *past)
        ),
    }


def _declare(name: str, dtype: str, *shape: int | str) -> Declared:
    return Declared(name=name, dtype=dtype, shape=shape)


def _states(kind: str, values: Sequence[Tensor], length: str) -> tuple[Declared, ...]:
    """Keys and values layer by layer, [batch, heads, length, size] each."""
    return tuple(
        _declare(f"{kind}.{index // 2}.{'value' if index % 2 else 'key'}", "float32", "batch", heads, length, size)
        for index, (_, heads, _, size) in enumerate(value.shape for value in values)
    )


def _with_forward(module: nn.Module, forward: Callable[..., Any]) -> nn.Module:
    """Return the same module called by another function, its layers at the same paths."""
    part = copy.copy(module)
    part.__class__ = type(type(module).__name__, (type(module),), {"forward": forward})
    return part


def _encode(self: Any, source_ids: Tensor, source_mask: Tensor) -> tuple[Tensor, ...]:
    return self.encode(source_ids, source_mask)


def _step_of(count: int) -> Callable[..., tuple[Tensor, ...]]:
    """Return the function of a decoder's graph, whose first ``count`` states are of the source."""

    def step(self: Any, token: Tensor, source_mask: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        logits, present = self.step(token, source_mask, states[:count], states[count:])
        return (logits, *present)

    return step


def in_torch(module: nn.Module, writing: Writing) -> Decoder:
    """Return what drives a module as `compress.export.decoding` drives its program.

    Args:
        module: a model that writes, on the CPU and in evaluation mode.
        writing: how.
    """
    model: Any = module
    present = split(module)[DECODER].signature.outputs[1:]
    cache = [(int(heads), int(size)) for _, heads, _, size in (state.shape for state in present)]

    @torch.no_grad()
    def encode(*given: NDArray[Any]) -> list[NDArray[Any]]:
        return [value.numpy() for value in model.encode(*map(torch.from_numpy, given))]

    @torch.no_grad()
    def step(token: NDArray[Any], mask: NDArray[Any], *states: NDArray[Any]) -> list[NDArray[Any]]:
        half = len(states) - len(cache)
        given = tuple(torch.from_numpy(np.ascontiguousarray(state)) for state in states)
        logits, present = model.step(torch.from_numpy(token), torch.from_numpy(mask), given[:half], given[half:])
        return [logits.numpy(), *(value.numpy() for value in present)]

    return Decoder(encode, step, cache, writing)


def check_program(
    module: nn.Module,
    opened: Callable[[bool], Decoder],
    inputs: Sequence[NDArray[Any]],
    *,
    tolerance: float = FP32_TOLERANCE,
    where: object = None,
) -> dict[str, float]:
    """Compare a float program with its module: logits given the target, and the texts that both write.

    Logits of every symbol of the targets, from a decoder that starts with an empty cache, at batch 1, 2 and all rows,
    with ONNX Runtime's optimisations off and on; the written texts with them on.

    Args:
        module: run on a CPU copy in inference mode and left as it is.
        opened: opens the program, with or without optimisations.
        inputs: source ids and mask [N, S], and target ids [N, T], real ones, 3 rows or more.
        tolerance: of a logit, relative to max(1, largest absolute logit).
        where: named in messages.

    Returns:
        The worst case: the keys of `difference`, of which ``argmax_agreement`` is the share of equal texts.

    Raises:
        StageError: outside the tolerance, or more than 0.5% of the texts differ.
    """
    plain = duplicate(module).cpu().eval()
    reports: list[dict[str, float]] = []
    for optimize in (False, True):
        decoder = opened(optimize)
        for rows in (1, 2, len(inputs[0])):
            given = [np.ascontiguousarray(values[:rows]) for values in inputs]
            with torch.no_grad():
                expected = plain(*map(torch.from_numpy, given)).numpy()
            real = _real(given[2], pad=decoder.writing.pad)
            report = difference(expected[real], force(decoder, *given)[real])
            if report["max_abs"] > tolerance * report["scale"]:
                raise StageError(
                    "the program does not compute what the model computes",
                    expected=f"largest error of a logit at most {tolerance * report['scale']:.3g}",
                    got=f"{report['max_abs']:.3g}",
                    where=f"{where}, batch {rows}, ORT optimisations {'on' if optimize else 'off'}",
                )
            reports.append(report)
    equal = compare_texts(in_torch(plain, decoder.writing), decoder, inputs[0], inputs[1])
    if equal < MIN_EQUAL_TEXTS:
        raise StageError(
            "the program writes other texts than the model",
            expected=f"the same on {MIN_EQUAL_TEXTS:.1%} of {len(inputs[0])} sources",
            got=f"{equal:.2%}",
            where=where,
        )
    return {key: max(report[key] for report in reports) for key in reports[0]} | {"argmax_agreement": equal}


def check_texts(
    opened: Callable[[bool], Decoder], inputs: Sequence[NDArray[Any]], *, min_agreement: float, where: object = None
) -> dict[str, float]:
    """Compare a program that no module equals, such as int8, with itself: one by one, two at a time, unoptimised.

    The reference writes for all sources at once with ONNX Runtime's optimisations. Ranges that are found at run time
    depend on the batch, so that texts may differ.

    Args:
        opened: opens the program, with or without optimisations.
        inputs: source ids and mask [N, S], real ones.
        min_agreement: smallest share of equal texts, 0 to 1; 0 only reports.
        where: named in messages.

    Returns:
        The worst case: the keys of `difference` of the log-probabilities, and ``argmax_agreement``, of texts.

    Raises:
        StageError: too few texts are equal.
    """
    rows = len(inputs[0])
    reference = opened(True).write(*inputs)
    reports: list[dict[str, float]] = []
    for optimize, size in ((True, 1), (True, 2), (False, rows)):
        decoder = opened(optimize)
        parts = [decoder.write(*(values[at : at + size] for values in inputs)) for at in range(0, rows, size)]
        reports.append(text_difference(reference, Written(*map(np.concatenate, zip(*parts, strict=True)))))
        if reports[-1]["argmax_agreement"] < min_agreement:
            raise StageError(
                "the program writes otherwise at another batch size or without ORT's optimisations",
                expected=f"the same texts for {min_agreement:.2%} of {rows} sources",
                got=f"{reports[-1]['argmax_agreement']:.2%}",
                where=f"{where}, batch {size}, ORT optimisations {'on' if optimize else 'off'}",
                hint="keep the most sensitive layers in float (keep_float), or lower min_agreement",
            )
    return {key: (min if key == "argmax_agreement" else max)(report[key] for report in reports) for key in reports[0]}


def text_difference(reference: Written, other: Written) -> dict[str, float]:
    """Return how far apart log-probabilities are, as `difference` does, and the share of equal texts."""
    apart = difference(reference.log_probability, other.log_probability)
    return apart | {"argmax_agreement": float((reference.tokens == other.tokens).all(axis=1).mean())}


def compare_texts(first: Decoder, second: Decoder, source_ids: NDArray[Any], source_mask: NDArray[Any]) -> float:
    """Return the share of sources for which both write the same."""
    ours, theirs = (found.write(source_ids, source_mask).tokens for found in (first, second))
    return float((ours == theirs).all(axis=1).mean())


def force(
    decoder: Decoder, source_ids: NDArray[Any], source_mask: NDArray[Any], target_ids: NDArray[Any]
) -> NDArray[np.float32]:
    """Return the logits after each of a target's symbols, [N, T, V], step by step from an empty cache."""
    cross = decoder.encode(source_ids, source_mask)
    return np.stack([*_forced(decoder, cross, source_mask, target_ids)], axis=1)


def nats_of(
    decoder: Decoder, inputs: Sequence[NDArray[Any]], right: NDArray[np.integer], valid: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return minus the log-probability of each target, of every symbol after the right ones before it, float64 [N].

    Args:
        decoder: of a program.
        inputs: source ids and mask [N, S], and target ids [N, T] with the sign of the beginning first.
        right: the symbol after each of them, [N, T].
        valid: which of those count, [N, T].
    """
    source_ids, mask, target_ids = inputs
    found, rows = np.zeros(len(mask)), np.arange(len(mask))
    for at, logits in enumerate(_forced(decoder, decoder.encode(source_ids, mask), mask, target_ids)):
        shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
        nats = np.log(np.exp(shifted).sum(axis=1)) - shifted[rows, right[:, at]]
        found += np.where(valid[:, at], nats, 0.0)
    return found


def _forced(
    decoder: Decoder, cross: Sequence[NDArray[Any]], mask: NDArray[Any], target_ids: NDArray[Any]
) -> Iterator[NDArray[np.float32]]:
    _, past = decoder.begin(len(mask))
    for at in range(target_ids.shape[1]):
        logits, past = decoder.advance(np.ascontiguousarray(target_ids[:, at : at + 1]), mask, cross, past)
        yield logits


def _real(target_ids: NDArray[Any], *, pad: int) -> NDArray[np.bool_]:
    """Return which positions of targets are no padding, which a decoder with a cache would read."""
    return np.cumsum(target_ids == pad, axis=1) == 0


def program_of(module: nn.Module, writing: Writing, *, opset: int = OPSET) -> Deployable:
    """Return a model that writes as its two float graphs; the module itself is left as it is.

    Args:
        module: see `split`.
        writing: how the program writes.
        opset: the ONNX opset.

    Raises:
        StageError: when it is no model that writes, or cannot be exported.
    """
    parts = split(module)
    return Deployable(
        {name: to_onnx(part.module, part.signature, part.example, opset=opset) for name, part in parts.items()}, writing
    )
