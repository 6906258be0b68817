"""Checkpoints of training: weights, projectors, the optimizer's state and the random generator, in safetensors."""

import json
import os
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from compress.store.disk import writable


def save_checkpoint(trained: nn.Module, updates: torch.optim.Optimizer, directory: Path, *, step: int) -> None:
    """Write a checkpoint under a temporary name, then rename it over the previous one.

    Args:
        trained: everything that is trained.
        updates: the optimizer.
        directory: of this training.
        step: how many updates are done.

    Raises:
        EnvironmentFault: when the disk is full or not writable.
    """
    state = updates.state_dict()
    tensors = {name: value.contiguous() for name, value in trained.state_dict().items()}
    for index, entries in state["state"].items():
        for name, value in entries.items():
            if value is not None:
                tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value).contiguous()
    tensors["rng"] = torch.get_rng_state()
    draft = directory / f"checkpoint.draft-{os.getpid()}"
    with writable(directory):
        save_file(tensors, draft, metadata={"step": json.dumps(step)})
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.rename(directory / "checkpoint.safetensors")


def restore_checkpoint(trained: nn.Module, updates: torch.optim.Optimizer, directory: Path) -> int:
    """Load the checkpoint of this training, if any; return the step to go on from."""
    path = directory / "checkpoint.safetensors"
    if not path.exists():
        return 0
    with safe_open(path, framework="pt") as file:
        step = json.loads(file.metadata()["step"])
    tensors = load_file(path)
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
    return step
