"""Checkpoints of training: weights, projectors, the optimizer's state and the random generator, in safetensors.

Each holds a checksum of its tensors, its step and the training that it is of, and the one before is kept: what is
damaged is set aside, and training goes on from the other, or from the beginning, to the same bits.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from compress.stage.device import device_of
from compress.store.disk import readable, sync_file, writable

NEWEST, EARLIER = "checkpoint.safetensors", "checkpoint.earlier.safetensors"
DAMAGED = ".damaged"


def save_checkpoint(trained: nn.Module, updates: torch.optim.Optimizer, directory: Path, *, step: int) -> None:
    """Write a checkpoint under a temporary name, then rename it over the previous one, which is kept under another.

    Args:
        trained: everything that is trained.
        updates: the optimizer.
        directory: of this training.
        step: how many updates are done.

    Raises:
        EnvironmentFault: when the disk is full or not writable.
    """
    state, device = updates.state_dict(), device_of(trained)
    # Copies, because tied weights have several names, and safetensors refuses names that share memory.
    tensors = {name: value.cpu().clone().contiguous() for name, value in trained.state_dict().items()}
    for index, entries in state["state"].items():
        for name, value in entries.items():
            if value is not None:
                tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value).contiguous().cpu()
    tensors["rng"] = torch.get_rng_state()
    if device.type != "cpu":
        tensors[f"rng.{device.type}"] = torch.get_device_module(device).get_rng_state(device)
    draft = directory / f"checkpoint.draft-{os.getpid()}"
    metadata = {"step": json.dumps(step), "sha256": _checksum(tensors, directory, step=step)}
    with writable(directory):
        save_file(tensors, draft, metadata=metadata)
        sync_file(draft)
        if (directory / NEWEST).exists():
            (directory / NEWEST).rename(directory / EARLIER)
        draft.rename(directory / NEWEST)


def restore_checkpoint(
    trained: nn.Module, updates: torch.optim.Optimizer, directory: Path, *, say: Callable[[str], object]
) -> int:
    """Load the newest whole checkpoint of this training, if any; return the step to go on from.

    Args:
        trained: everything that is trained.
        updates: the optimizer.
        directory: of this training.
        say: told of a checkpoint that is damaged.

    Raises:
        EnvironmentFault: when the disk refuses to be read.
    """
    for name in (NEWEST, EARLIER):
        path = directory / name
        if not path.exists():
            continue
        try:
            with readable(directory):
                step, tensors = _read(path)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            aside = path.with_name(name + DAMAGED)
            with writable(directory):
                path.replace(aside)
            say(f"a checkpoint is damaged ({error}) and set aside as {aside}; training starts before it")
            continue
        _load(tensors, trained, updates)
        return step
    return 0


def _read(path: Path) -> tuple[int, dict[str, Tensor]]:
    """Return the step and the tensors of a checkpoint.

    Raises:
        ValueError: when they are not what was written for this training.
        SafetensorError: when the file is none.
    """
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    step, tensors = int(metadata["step"]), load_file(path)
    if metadata["sha256"] != _checksum(tensors, path.parent, step=step):
        raise ValueError("its content is not what was written")
    return step, tensors


def _checksum(tensors: Mapping[str, Tensor], directory: Path, *, step: int) -> str:
    """Return the SHA-256 of a checkpoint's tensors, its step and the training that it is of."""
    state = hashlib.sha256(json.dumps([directory.name, step]).encode())
    for name, value in sorted(tensors.items()):
        state.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        state.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()


def _load(tensors: Mapping[str, Tensor], trained: nn.Module, updates: torch.optim.Optimizer) -> None:
    trained.load_state_dict({name: value for name, value in tensors.items() if name.startswith(("model.", "loss."))})
    parameters = [parameter for group in updates.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, entry = name.split(".")
            parameter = parameters[int(index)]
            if value.shape == parameter.shape:
                # Fused updates walk parameter and state side by side in memory, so both need the same strides.
                value = torch.empty_like(parameter, requires_grad=False).copy_(value)
            state.setdefault(int(index), {})[entry] = value
    updates.load_state_dict({"state": state, "param_groups": updates.state_dict()["param_groups"]})
    torch.set_rng_state(tensors["rng"])
    device = device_of(trained)
    if (drawn := tensors.get(f"rng.{device.type}")) is not None:  # one of another device has no such state
        torch.get_device_module(device).set_rng_state(drawn, device)
