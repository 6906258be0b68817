"""Torch: an artifact's module on the CPU, eager or compiled, and on CUDA. The runtimes that need this package."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .interface import Batch, Load, Unusable

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

Feed = tuple[tuple[Any, ...], dict[str, Any]]


class CpuModule:
    """A module in eager torch, or compiled for the shapes it meets.

    Args:
        load: what to run.
        compiled: by torch.compile; the first run compiles.
    """

    def __init__(self, load: Load, *, compiled: bool) -> None:
        import torch

        self._module = _module(load)
        self._call: Callable[..., Any] = torch.compile(self._module) if compiled else self._module
        self.settings = _settings() | {"compiled": compiled, "dtype": "float32"}

    def feed(self, batch: Batch) -> Feed:
        """Tensors that share the batch's memory."""
        return _arguments(batch)

    def run(self, feed: Feed) -> Any:
        """Call the module."""
        return self._call(*feed[0], **feed[1])

    def outputs(self, result: Any) -> "list[NDArray[Any]]":
        """The module's tensor, or its tensors in order."""
        return [tensor.float().numpy() for tensor in _tensors(result)]


class CudaModule:
    """A module in eager torch on a GPU, in half precision where the tensors are floats.

    Raises:
        Unusable: without a GPU that this torch can use.
    """

    def __init__(self, load: Load) -> None:
        import torch

        check_cuda()
        self._module = _module(load).cuda().half()
        device = torch.cuda.get_device_name()
        self.settings = _settings() | {"device": device, "adapter": "hardware", "dtype": "float16"}

    def feed(self, batch: Batch) -> Feed:
        """Tensors that share the batch's memory."""
        return _arguments(batch)

    def run(self, feed: Feed) -> Any:
        """Copy in, run, copy out."""
        placed, named = self._place(feed)
        return [tensor.cpu() for tensor in _tensors(self._module(*placed, **named))]

    def outputs(self, result: Any) -> "list[NDArray[Any]]":
        """The module's tensor, or its tensors in order."""
        return [tensor.float().numpy() for tensor in result]

    def place(self, batch: Batch) -> Feed:
        """The batch on the GPU."""
        return self._place(_arguments(batch))

    def time_compute(self, feeds: Sequence[Feed], *, start: int, block_ms: float, multiple: int = 1) -> list[int]:
        """Time calls by CUDA events, with one synchronise at the end, so that launches overlap as they do in use."""
        import torch

        before = time.perf_counter()
        self._module(*feeds[start % len(feeds)][0], **feeds[start % len(feeds)][1])
        torch.cuda.synchronize()
        calls = multiple * max(1, round(block_ms / 1e3 / (time.perf_counter() - before) / multiple))
        events = [torch.cuda.Event(enable_timing=True) for _ in range(calls + 1)]
        events[0].record()
        for call in range(calls):
            placed, named = feeds[(start + call) % len(feeds)]
            self._module(*placed, **named)
            events[call + 1].record()
        torch.cuda.synchronize()
        return [round(first.elapsed_time(second) * 1e6) for first, second in zip(events, events[1:], strict=False)]

    @staticmethod
    def _place(feed: Feed) -> Feed:
        def move(tensor: "torch.Tensor") -> "torch.Tensor":
            return (tensor.half() if tensor.is_floating_point() else tensor).cuda()

        return tuple(move(tensor) for tensor in feed[0]), {name: move(tensor) for name, tensor in feed[1].items()}


def check_cpu() -> None:
    """Run a small module on the CPU.

    Raises:
        RuntimeError: when it computes something else.
    """
    _run_small("cpu")


def check_compiler() -> None:
    """Refuse where torch.compile finds no C++ compiler. Nothing is compiled, which would take most of a minute.

    Raises:
        Unusable: then.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise Unusable("torch.compile finds no C++ compiler", install="apt-get install g++") from error


def check_cuda() -> None:
    """Refuse where torch sees no GPU, and run a small module on it.

    Raises:
        Unusable: without one.
        RuntimeError: when it computes something else.
    """
    import torch

    if torch.version.cuda is None:
        raise Unusable(f"torch {torch.__version__} is not built for CUDA", install="install a CUDA build of torch")
    if not torch.cuda.is_available():
        raise Unusable("torch sees no GPU", install="install an NVIDIA driver, and give the container its device")
    _run_small("cuda")


def _run_small(device: str) -> None:
    import torch

    module = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.ones_(module.weight)
    with torch.no_grad():
        found = module.to(device)(torch.tensor([[1.0, 2.0]], device=device)).item()
    if found != 3.0:
        raise RuntimeError(f"1 + 2 came to {found} on {device}")


def _module(load: Load) -> "torch.nn.Module":
    import torch

    from compress.models import load_model  # the one thing that needs the package

    torch.set_num_threads(load.threads)
    torch.set_num_interop_threads(1)
    torch.set_grad_enabled(mode=False)
    return load_model(Path(load.model), code=[Path(file) for file in load.code]).eval()


def _settings() -> dict[str, Any]:
    import torch

    return {"torch": torch.__version__, "memory_format": "contiguous", "spinning": False}


def _arguments(batch: Batch) -> Feed:
    """A single input is passed by position, several by name."""
    import torch

    tensors = {name: torch.from_numpy(array) for name, array in batch.items()}
    return (tuple(tensors.values()), {}) if len(tensors) == 1 else ((), tensors)


def _tensors(result: Any) -> "list[torch.Tensor]":
    import torch

    if isinstance(result, torch.Tensor):
        return [result]
    return [*(result.values() if isinstance(result, dict) else result)]
