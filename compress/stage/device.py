"""Devices by name: which there is, and what it is called in a sentence."""

import importlib.util

import torch
from torch import nn

from compress.errors import EnvironmentFault

KINDS = ("cuda", "xpu", "mps")  # accelerators that are taken without being asked for


def best_device() -> str:
    """Return the accelerator that torch finds, such as ``cuda:0``, else ``cpu``."""
    found = torch.accelerator.current_accelerator(check_available=True)
    if found is None or found.type not in KINDS:
        return "cpu"
    return f"{found.type}:{torch.accelerator.current_device_index()}"


def check_device(name: str) -> str:
    """Return the name of a device with its number, once a tensor has been made there.

    Raises:
        EnvironmentFault: when there is none of that name.
    """
    try:
        return str(torch.empty(1, device=name).device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise EnvironmentFault(
            "there is no such device here",
            expected=f"cpu, {best_device()}" if best_device() != "cpu" else "cpu: torch finds no accelerator",
            got=name,
            where="--device",
            hint=f"install a torch that was built for it, or say --device cpu ({str(error).splitlines()[0]})",
        ) from error


def check_compiler(device: str) -> None:
    """Refuse to compile for a device where torch's compiler does not find what it needs. Nothing is compiled.

    Raises:
        EnvironmentFault: when there is no C++ compiler for the CPU, or no Triton for an accelerator.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    missing, hint = None, ""
    if torch.device(device).type == "cpu":
        try:
            get_cpp_compiler()
        except InvalidCxxCompiler:
            missing, hint = "a C++ compiler", "apt-get install g++"
    elif importlib.util.find_spec("triton") is None:
        missing, hint = "Triton", "install the triton that torch's wheels for accelerators bring"
    if missing:
        raise EnvironmentFault(
            "torch cannot compile here",
            expected=missing,
            got="none",
            where=device,
            hint=f"{hint}, or leave compile out",
        )


def name_device(name: str) -> str:
    """Return a device as a sentence names it: ``cuda:0 (NVIDIA H200)``."""
    device = torch.device(name)
    return f"{name} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else name


def name_kind(name: str) -> str:
    """Return what a device is, whatever its number: ``cuda (NVIDIA H200)``, ``cpu``."""
    device = torch.device(name)
    return f"{device.type} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type


def device_of(module: nn.Module) -> torch.device:
    """Return where a module's parameters are; the CPU where it has none."""
    return next((value.device for value in (*module.parameters(), *module.buffers())), torch.device("cpu"))


def has_float64(device: torch.device) -> bool:
    """Whether a device has float64; MPS has none, nor have some of XPU."""
    try:
        torch.zeros(1, dtype=torch.float64, device=device).sum()
    except (TypeError, RuntimeError):
        return False
    return True
