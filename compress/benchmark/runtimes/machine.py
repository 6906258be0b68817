"""What the kernel tells of this machine and process. Where a system lacks a counter the answer is None, never 0."""

import os
import platform
import re
from pathlib import Path


def read(path: str | Path) -> str | None:
    """The text of one of the kernel's files, or None."""
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None


def cores() -> list[list[int]]:
    """The logical CPUs this process may use, grouped by physical core."""
    topology = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    try:
        logical = sorted(os.sched_getaffinity(0))
    except AttributeError:  # macOS has no affinity
        return [[cpu] for cpu in range(os.cpu_count() or 1)]
    found: dict[str, list[int]] = {}
    for cpu in logical:
        found.setdefault(read(topology.format(cpu)) or str(cpu), []).append(cpu)
    return list(found.values())


def count_allowed_cores() -> int:
    """Physical cores this process may use: its affinity and the container's quota respected, at least 1."""
    count = len(cores())
    quota, period = ((read("/sys/fs/cgroup/cpu.max") or "max 1").split() + ["1"])[:2]
    return count if quota == "max" else max(1, min(count, int(quota) // int(period)))


def pin(threads: int, *, first_core: int) -> list[int] | None:
    """Keep this process on as many physical cores as it has threads.

    Args:
        threads: of the runtime.
        first_core: where to start counting, around the end; models that are measured in turn share their cores.

    Returns:
        The logical CPUs, or None where the system cannot pin or there are not enough cores.
    """
    available = cores()
    if not hasattr(os, "sched_setaffinity") or threads > len(available):
        return None
    chosen = sorted(available[(first_core + step) % len(available)][0] for step in range(threads))
    os.sched_setaffinity(0, chosen)
    return chosen


def cpu() -> tuple[str, list[str]]:
    """The model's name and its instruction set flags, as the kernel lists them."""
    text = read("/proc/cpuinfo") or ""
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    return (model[1] if model else platform.processor() or "unknown"), (flags[1].split() if flags else [])


def status(field: str) -> int | None:
    """A number from /proc/self/status."""
    lines = (read("/proc/self/status") or "").splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith(field + ":")), None)


def peak_memory_bytes() -> int | None:
    """Peak resident memory so far. Not ru_maxrss: on Linux that survives exec, so it starts at the parent's peak."""
    peak_kib = status("VmHWM")
    return None if peak_kib is None else peak_kib * 1024


def energy_uj(root: str = "/sys/class/powercap") -> int | None:
    """Microjoules that all CPU packages drew since some moment (RAPL); None where nobody may read it."""
    found = [read(path / "energy_uj") for path in Path(root).glob("intel-rapl:*") if path.name.count(":") == 1]
    known = [int(value) for value in found if value is not None]
    return sum(known) if known and len(known) == len(found) else None
