"""Where a benchmark ran, and what disturbed it.

Everything comes from the kernel's own files; where a system lacks one, the value is None, never 0. Host
names and paths are left out, so a result can be published as it is.
"""

import datetime
import os
import platform
import re
import resource
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Self

# The flags that decide which int8 and bf16 kernels run.
KERNEL_FLAGS = (
    "avx2", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16",
    "amx_int8", "amx_bf16", "asimd", "asimddp", "i8mm", "bf16", "sve",
)  # fmt: skip
PACKAGES = ("compress-onnx", "onnxruntime", "onnx", "torch", "numpy")


def describe(*, seed: int) -> dict[str, Any]:
    """Hardware, versions, seed and date (UTC) of a run, ready for JSON."""
    model, flags = _cpu()
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "system": f"{platform.system()} {platform.machine()}",
        "cpu_model": model,
        "cpu_flags": sorted(set(flags) & set(KERNEL_FLAGS)),
        "logical_cores": os.cpu_count(),
        "allowed_cores": allowed_cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def allowed_cores() -> int:
    """Physical cores this process may use: its affinity and the container's quota respected, at least 1."""
    try:
        logical = sorted(os.sched_getaffinity(0))
    except AttributeError:  # macOS has no affinity
        return os.cpu_count() or 1
    topology = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    cores = len({_read(topology.format(cpu)) or str(cpu) for cpu in logical})
    quota, period = ((_read("/sys/fs/cgroup/cpu.max") or "max 1").split() + ["1"])[:2]
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))


@dataclass(frozen=True, slots=True)
class Noise:
    """What else the machine did during a measurement."""

    load_average: tuple[float, float]
    """One-minute load average before and after; it includes the measurement and what ran just before."""
    foreign_cores: float | None
    """Cores kept busy by processes that are not ours, on average."""
    steal_share: float | None
    """Share (0 to 1) of the machine's time that the hypervisor gave to others."""

    def reasons(self) -> list[str]:
        """Why a result taken under this noise deserves less trust."""
        found = []
        if self.foreign_cores is not None and self.foreign_cores > 0.25:
            found.append(f"other processes kept {self.foreign_cores:.1f} cores busy")
        if self.steal_share is not None and self.steal_share > 0.01:
            found.append(f"the hypervisor took {self.steal_share:.1%} of the time")
        return found


class NoiseProbe:
    """Counters read when it is created and again by `noise`; worker processes must have ended by then."""

    def __init__(self) -> None:
        self._load = os.getloadavg()[0]
        self._ticks, self._own_s = _cpu_ticks(), _own_cpu_s()

    def noise(self) -> Noise:
        """The noise since the probe was created."""
        now, load = _cpu_ticks(), (self._load, os.getloadavg()[0])
        if now is None or self._ticks is None:
            return Noise(load_average=load, foreign_cores=None, steal_share=None)
        spent = now - self._ticks
        ticks_per_s = os.sysconf("SC_CLK_TCK")
        elapsed_s = spent.total / ticks_per_s / (os.cpu_count() or 1)
        foreign_s = spent.busy / ticks_per_s - (_own_cpu_s() - self._own_s)
        return Noise(
            load_average=load,
            foreign_cores=max(0.0, foreign_s / elapsed_s) if elapsed_s else 0.0,
            steal_share=spent.steal / spent.total if spent.total else 0.0,
        )


@dataclass(frozen=True, slots=True)
class _Ticks:
    total: int
    busy: int
    steal: int

    def __sub__(self, other: Self) -> Self:
        return type(self)(self.total - other.total, self.busy - other.busy, self.steal - other.steal)


def _cpu_ticks() -> _Ticks | None:
    """Clock ticks of all CPUs since boot (proc(5), /proc/stat)."""
    text = _read("/proc/stat")
    if text is None:
        return None
    user, nice, system, idle, io_wait, irq, soft_irq, steal = map(int, text.split("\n", 1)[0].split()[1:9])
    busy = user + nice + system + irq + soft_irq
    return _Ticks(total=busy + idle + io_wait + steal, busy=busy, steal=steal)


def _own_cpu_s() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _cpu() -> tuple[str, list[str]]:
    text = _read("/proc/cpuinfo") or ""
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    return (model[1] if model else platform.processor() or "unknown"), (flags[1].split() if flags else [])


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return None
