"""Taps: where in a model features are read, found by module path, checked on a dry run, captured by hooks."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from compress.errors import ModelError

Side = Literal["output", "input"]


@dataclass(frozen=True, order=True)
class Tap:
    """One tensor of a model.

    Attributes:
        path: of the module.
        side: what the module returns, or its first argument.
    """

    path: str
    side: Side = "output"

    def __str__(self) -> str:
        """As a recipe spells it: the path, with ``:input`` behind it for an input."""
        return self.path if self.side == "output" else f"{self.path}:input"


@dataclass(frozen=True)
class Seen:
    """What a dry run saw of one module.

    Attributes:
        module: the module.
        output: shape of the first tensor that it returns, or None.
        input: shape of its first argument, or None when that is no tensor.
        calls: times it ran.
    """

    module: nn.Module
    output: tuple[int, ...] | None
    input: tuple[int, ...] | None
    calls: int


@dataclass(frozen=True)
class Trace:
    """One forward pass, module by module.

    Attributes:
        role: ``student`` or ``teacher``; named in messages.
        seen: module path to what was seen, in the order in which modules finished.
    """

    role: str
    seen: Mapping[str, Seen]

    def shape(self, tap: Tap) -> tuple[int, ...]:
        """Return the shape of a tapped tensor, batch first.

        Raises:
            ModelError: when there is no such module, it ran other than once, or there is no tensor on that side.
        """
        seen = self.seen.get(tap.path)
        if seen is None:
            raise ModelError(
                f"no module of the {self.role} runs under this path",
                expected=f"one of {', '.join(self.seen)}",
                got=tap.path,
                where=f"tap {tap}",
                hint="`compressor plan` lists the pairs; * matches within one part of a path, ** across parts",
            )
        shape = seen.output if tap.side == "output" else seen.input
        if shape is None or seen.calls != 1:
            what = f"{seen.calls} calls" if seen.calls != 1 else f"no tensor as its {tap.side}"
            raise ModelError(
                f"a tap of the {self.role} is not one tensor", expected="one", got=what, where=f"tap {tap}"
            )
        return shape

    def matches(self, pattern: str) -> list[Tap]:
        """Return the taps that a glob names, in the order in which they run.

        Raises:
            ModelError: when it names none, or a side that modules do not have.
        """
        glob, colon, side = pattern.partition(":")
        if colon and side != "input":
            raise ModelError(
                f"a tap of the {self.role} has no such side",
                expected=f"{glob} for what the module returns, {glob}:input for what goes into it",
                got=pattern,
            )
        matching = path_pattern(glob)
        found = [Tap(path, "input" if colon else "output") for path in self.seen if matching.fullmatch(path)]
        if not found:
            self.shape(Tap(glob))  # tells what there is
        return found


def path_pattern(glob: str) -> re.Pattern[str]:
    """Return what a glob matches: ``*`` and ``?`` within one part of a dotted path, ``**`` across parts."""
    words = {"**": ".*", "*": r"[^.]*", "?": r"[^.]"}
    return re.compile("".join(words.get(word) or re.escape(word) for word in re.split(r"(\*\*|\*|\?)", glob)))


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode for the block; afterwards every part of it is back in its own mode."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def dry_run(module: nn.Module, inputs: Sequence[Tensor] | Mapping[str, Tensor], *, role: str) -> Trace:
    """Run a module once, in evaluation mode without gradients, and return what each submodule took and gave.

    Args:
        module: left as it was.
        inputs: its arguments, in order or by name.
        role: ``student`` or ``teacher``; named in messages.
    """
    seen: dict[str, Seen] = {}

    def note(path: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(inner: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
            calls = seen[path].calls + 1 if path in seen else 1
            given = arguments[0] if arguments and isinstance(arguments[0], Tensor) else None
            returned = first_tensor(output)
            seen[path] = Seen(
                inner,
                None if returned is None else tuple(returned.shape),
                None if given is None else tuple(given.shape),
                calls,
            )

        return hook

    handles = [inner.register_forward_hook(note(path)) for path, inner in module.named_modules() if path]
    try:
        with evaluating(module), torch.no_grad(), torch.random.fork_rng(devices=[]):
            module(**inputs) if isinstance(inputs, Mapping) else module(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return Trace(role, seen)


def first_tensor(value: Any) -> Tensor | None:
    """Return the first tensor of whatever containers a module returns."""
    return next((leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)), None)


class Capture:
    """Hooks that keep what passes some taps, each once, until it is taken."""

    def __init__(self, module: nn.Module, taps: Sequence[Tap]) -> None:
        self.kept: dict[Tap, tuple[Tensor, int]] = {}
        tapped = {tap: module.get_submodule(tap.path) for tap in taps}
        self.handles = [inner.register_forward_hook(self._keep(tap)) for tap, inner in tapped.items()]

    def _keep(self, tap: Tap) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(_module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
            tensor = first_tensor(output) if tap.side == "output" else arguments[0]
            assert tensor is not None
            self.kept[tap] = (tensor, tensor._version)

        return hook

    def take(self) -> dict[Tap, Tensor]:
        """Return what passed since the last call, and forget it.

        Raises:
            ModelError: when a tensor was changed in place after it passed, as ``nn.ReLU(inplace=True)`` does.
        """
        kept, self.kept = self.kept, {}
        for tap, (tensor, version) in kept.items():
            if tensor._version != version:
                raise ModelError(
                    "a tapped tensor is changed in place after it leaves its module",
                    where=f"tap {tap}",
                    hint="tap the module that changes it, or build that one with inplace=False",
                )
        return {tap: tensor for tap, (tensor, _) in kept.items()}

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self.handles:
            handle.remove()


@contextmanager
def capture_taps(module: nn.Module, taps: Sequence[Tap]) -> Iterator[Capture]:
    """Capture some taps of a module for the block."""
    capture = Capture(module, taps)
    try:
        yield capture
    finally:
        capture.close()
