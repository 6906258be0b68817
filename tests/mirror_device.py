"""A pretend accelerator for tests without one.

`mirror` is a torch device (PrivateUse1) whose tensors hold a CPU tensor and whose operations run on it. As on a real
accelerator, an operation on tensors of two devices raises, `.numpy()` raises, and results come back with `.cpu()`. As
on MPS, there is no float64.
A test may give it float64, as CUDA has it. It has to be installed before the first backward pass of a process.
"""

import gc
from collections import defaultdict

import torch
import torch.utils.backend_registration as registration
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

NAME = "mirror"
COPIES = ("_copy_from", "_to_copy", "copy_", "_copy_from_and_resize")
reads: list[str] = []  # what made the CPU wait for the device
memory = {"elements": float("inf")}  # of the largest tensor that the device has memory for
types = {"float64": False}  # whether the device has it
libraries: list[torch.library.Library] = []  # what they register lasts as long as they do


class Mirrored(Tensor):
    """A tensor of the device: shape and strides here, numbers in `raw`."""

    raw: Tensor

    @staticmethod
    def of(raw: Tensor) -> "Mirrored":
        found = Tensor._make_wrapper_subclass(
            Mirrored,
            raw.size(),
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            device=torch.device(NAME, 0),
        )
        found.raw = raw
        return found

    @property
    def data(self) -> Tensor:
        return Tensor.data.__get__(self)

    @data.setter
    def data(self, value: Tensor) -> None:
        """Take the other's numbers too; torch alone takes its shape and strides."""
        Tensor.data.__set__(self, value)
        self.raw = value.raw

    def untyped_storage(self):
        return self.raw.untyped_storage()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


def alive() -> int:
    """How many tensors of the device there are."""
    gc.collect()
    return sum(type(thing) is Mirrored for thing in gc.get_objects())


def name_of(operation) -> str:
    return operation._schema.name.split("::")[-1]


def waits(name: str, args, here: bool) -> bool:
    """Whether the CPU needs a number of the device to go on: a value, a count, a copy."""
    if name.startswith("index"):
        chosen = args[1] if isinstance(args[1], (list, tuple)) else [args[1]]
        return any(isinstance(value, Mirrored) and value.dtype in (torch.bool, torch.uint8) for value in chosen)
    if name == "_to_copy":
        return not here
    return name in ("_local_scalar_dense", "nonzero", "masked_select", "equal", "_copy_from") and not (
        name == "_copy_from" and here
    )


def is_here(name: str, args, device, tensors) -> bool:
    """Whether the device has the result; tensors of two devices do not meet."""
    any_here = any(isinstance(tensor, Mirrored) for tensor in tensors)
    any_elsewhere = any(not isinstance(tensor, Mirrored) and tensor.dim() for tensor in tensors)
    if any_here and any_elsewhere and name not in COPIES:
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, but found {NAME}:0 and cpu!")
    if name == "copy_":
        return isinstance(args[0], Mirrored)
    return any_here if device is None else torch.device(device).type == NAME


def run(operation, args, kwargs):
    """Run an operation on the CPU tensors behind its arguments, and mirror what it returns."""
    values, spec = tree_flatten((args, kwargs))
    tensors = [value for value in values if isinstance(value, Tensor)]
    name = name_of(operation)
    here = is_here(name, args, kwargs.get("device"), tensors)
    if waits(name, args, here) and any(isinstance(tensor, Mirrored) for tensor in tensors):
        reads.append(name)

    def down(value):
        if isinstance(value, Mirrored):
            return value.raw
        if isinstance(value, torch.device) and value.type == NAME:
            return torch.device("cpu")
        return value

    raw_args, raw_kwargs = tree_unflatten([down(value) for value in values], spec)
    if "pin_memory" in raw_kwargs:
        raw_kwargs["pin_memory"] = False
    found = operation(*raw_args, **raw_kwargs)
    originals = {id(tensor.raw): tensor for tensor in tensors if isinstance(tensor, Mirrored)}

    def up(value):
        if not isinstance(value, Tensor):
            return value
        if id(value) in originals:  # what was changed in place is the very object
            return originals[id(value)]
        if here and value.dtype == torch.float64 and not types["float64"]:
            raise TypeError(f"{name}: {NAME} has no float64, as MPS has none")
        if here and value.numel() > memory["elements"]:
            raise torch.OutOfMemoryError(f"{name}: {NAME} out of memory, {value.numel():,} elements")
        return Mirrored.of(value) if here else value

    return tree_map(up, found)


class Module(registration.__class__):
    """What torch asks of a device's module; it draws from the CPU's generator."""

    _initialized = True

    def __init__(self):
        super().__init__(NAME)

    @staticmethod
    def is_available():
        return True

    @staticmethod
    def is_initialized():
        return True

    @staticmethod
    def _is_in_bad_fork():
        return False

    @staticmethod
    def device_count():
        return 1

    @staticmethod
    def current_device():
        return 0

    @staticmethod
    def set_device(device):
        pass

    @staticmethod
    def synchronize(device=None):
        pass

    @staticmethod
    def get_amp_supported_dtype():
        return [torch.bfloat16, torch.float16]

    @staticmethod
    def manual_seed(seed):
        pass

    @staticmethod
    def manual_seed_all(seed):
        pass

    @staticmethod
    def get_rng_state(device=None):
        return torch.get_rng_state()

    @staticmethod
    def set_rng_state(state, device=None):
        torch.set_rng_state(state)


move = torch.nn.Module._apply


def move_tied(module, function, recurse=True):
    """Move a module; layers that share a parameter go on sharing it, as on a GPU, where it stays the same object."""
    shared = defaultdict(list)
    for layer in module.modules():
        for name, value in layer._parameters.items():
            shared[id(value)].append((layer, name))
    move(module, function, recurse)
    for (first, own), *others in shared.values():
        for layer, name in others:
            layer._parameters[name] = first._parameters[own]
    return module


def install() -> None:
    """Register the device with torch, for the life of the process."""
    registration._setup_privateuseone_for_python_backend(NAME, backend_module=Module())
    torch.nn.Module._apply = move_tied
    library = torch.library.Library("_", "IMPL")
    library.fallback(lambda operation, *args, **kwargs: run(operation, args, kwargs), "PrivateUse1")
    # Autocast changes nothing here, so that results can be compared with the CPU's float32.
    library.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    made = torch.library.Library("aten", "IMPL")
    for name in ("default", "start", "start_step"):  # which torch makes of an empty tensor that grows
        operation = getattr(torch.ops.aten.arange, name)
        made.impl(
            operation._schema.name.split("::")[1] + ("" if name == "default" else f".{name}"),
            lambda *args, _operation=operation, **kwargs: run(_operation, args, kwargs),
            "PrivateUse1",
        )
    libraries.extend((library, made))
