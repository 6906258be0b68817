"""The lines of docs/processes.md for SLURM and Kubernetes are what torchrun and our command line take."""

import re
import subprocess
from pathlib import Path

import pytest
import typer
import yaml
from torch.distributed.elastic.rendezvous import RendezvousParameters
from torch.distributed.elastic.rendezvous.utils import _parse_rendezvous_config
from torch.distributed.run import config_from_args, get_args_parser, parse_min_max_nnodes

from compress.cli.main import app

PAGE = (Path(__file__).parents[2] / "docs" / "processes.md").read_text(encoding="utf-8")
SLURM = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_NNODES": "2", "SLURM_CPUS_PER_TASK": "32"}
STUBS = """
scontrol() { printf 'n1\\nn2\\n'; }
srun() { shift 2; "$@"; }
torchrun() { printf '%s\\n' "$@"; }
"""


def block(kind: str) -> str:
    """Return the page's block of a language that starts torchrun on two machines."""
    (found,) = (text for text in re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.M | re.S) if "--rdzv-id" in text)
    return found


def words_of(script: str, **environment: str) -> list[str]:
    """Return what a script gives to torchrun."""
    shell = subprocess.run(["bash", "-c", STUBS + script], env=environment, capture_output=True, text=True, check=True)
    return shell.stdout.splitlines()


def kubernetes() -> str:
    service, job = yaml.safe_load_all(block("yaml"))
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    shell, flag, script = container["command"]
    assert (shell, flag) == ("sh", "-c")
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert pod["subdomain"] == service["metadata"]["name"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert job["spec"]["completions"] == job["spec"]["parallelism"]
    assert f"--nproc-per-node {container['resources']['limits']['nvidia.com/gpu']} " in script
    assert f"{job['metadata']['name']}-0.{pod['subdomain']}:" in script
    return script.replace("exec torchrun", "torchrun")  # a function of the test's


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("where", ["slurm", "kubernetes"])
def test_the_lines_are_read_by_torchrun_and_by_us(where, index):
    if where == "slurm":
        words = words_of(block("bash"), **SLURM)
    else:
        words = words_of(kubernetes(), JOB_COMPLETION_INDEX=str(index))
    given = get_args_parser().parse_args(words)
    assert (given.module, given.training_script, given.max_restarts) == (True, "compress", 3)
    assert parse_min_max_nnodes(given.nnodes) == (2, 2)
    config, _, _ = config_from_args(given)
    assert (config.rdzv_backend, config.nproc_per_node) == ("c10d", 4)
    assert config.rdzv_endpoint.endswith(":29500")
    conf = _parse_rendezvous_config(given.rdzv_conf)
    is_host = RendezvousParameters("c10d", config.rdzv_endpoint, "x", 2, 2, **conf).get_as_bool("is_host")
    assert is_host is (None if where == "slurm" else index == 0)
    command, *rest = given.training_script_args
    with typer.main.get_command(app).commands[command].make_context(command, rest) as ours:
        assert ours.params["store"] == Path("/shared/store")
