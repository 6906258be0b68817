"""Where a benchmark ran, and what disturbed it.

Everything comes from the kernel's own files; where a system lacks one, the value is None, never 0. Host
names and paths are left out, so a result can be published as it is.
"""

import datetime
import os
import platform
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Self

from compress.benchmark.runtimes.machine import count_allowed_cores, cpu, read

# The flags that decide which int8 and bf16 kernels run.
KERNEL_FLAGS = (
    "avx2", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16",
    "amx_int8", "amx_bf16", "asimd", "asimddp", "i8mm", "bf16", "sve",
)  # fmt: skip
PACKAGES = ("compress-onnx", "onnxruntime", "onnx", "torch", "numpy")


@dataclass(frozen=True, slots=True)
class Environment:
    """Hardware, versions, seed and date of a run."""

    date: str
    """UTC, in ISO 8601."""
    seed: int
    system: str
    cpu_model: str
    cpu_flags: tuple[str, ...]
    """Of KERNEL_FLAGS."""
    logical_cores: int | None
    allowed_cores: int
    memory_bytes: int | None
    governor: str | None
    python: str
    versions: dict[str, str | None]
    """By package; None where one is not installed."""

    @property
    def day(self) -> str:
        """The date without its time."""
        return self.date[:10]

    @property
    def installed(self) -> str:
        """The versions of what is installed, in words."""
        return ", ".join(f"{name} {version}" for name, version in self.versions.items() if version)


def describe(*, seed: int, libraries: Iterable[str] = ()) -> Environment:
    """Return hardware, versions, seed and date of this moment.

    Args:
        seed: of what is described.
        libraries: distributions whose versions are told besides those of `PACKAGES`.
    """
    model, flags = cpu()
    return Environment(
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        seed=seed,
        system=f"{platform.system()} {platform.machine()}",
        cpu_model=model,
        cpu_flags=tuple(sorted(set(flags) & set(KERNEL_FLAGS))),
        logical_cores=os.cpu_count(),
        allowed_cores=count_allowed_cores(),
        memory_bytes=_memory_bytes(),
        governor=read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        python=platform.python_version(),
        versions={name: _version(name) for name in dict.fromkeys((*PACKAGES, *libraries))},
    )


@dataclass(frozen=True, slots=True)
class Noise:
    """What else the machine did during a measurement."""

    load_average: tuple[float, float] | None
    """One-minute load average before and after; it includes the measurement and what ran just before."""
    foreign_cores: float | None
    """Cores kept busy by processes that are not ours, on average."""
    steal_share: float | None
    """Share (0 to 1) of the machine's time that the hypervisor gave to others."""
    throttled: int | None = None
    """Times that heat slowed a core, or the container's quota stopped us."""

    def reasons(self) -> list[str]:
        """Why a result taken under this noise deserves less trust."""
        found = []
        if self.foreign_cores is not None and self.foreign_cores > 0.25:
            found.append(f"other processes kept {self.foreign_cores:.1f} cores busy")
        if self.steal_share is not None and self.steal_share > 0.01:
            found.append(f"the hypervisor took {self.steal_share:.1%} of the time")
        if self.throttled:
            found.append(f"heat or the container's quota slowed the CPU {self.throttled} times")
        return found


class NoiseProbe:
    """Counters read when it is created and again by `noise`; worker processes must have ended by then."""

    def __init__(self) -> None:
        self._load = _load_average()
        self._ticks, self._own_s, self._throttled = _cpu_ticks(), _own_cpu_s(), _count_throttling()

    def noise(self) -> Noise:
        """The noise since the probe was created."""
        now, after, throttled = _cpu_ticks(), _load_average(), _count_throttling()
        load = None if self._load is None or after is None else (self._load, after)
        if throttled is not None and self._throttled is not None:
            throttled -= self._throttled
        if now is None or self._ticks is None:
            return Noise(load_average=load, foreign_cores=None, steal_share=None, throttled=throttled)
        spent = now - self._ticks
        ticks_per_s = os.sysconf("SC_CLK_TCK")
        elapsed_s = spent.total / ticks_per_s / (os.cpu_count() or 1)
        foreign_s = spent.busy / ticks_per_s - (_own_cpu_s() - self._own_s)
        return Noise(
            load_average=load,
            foreign_cores=max(0.0, foreign_s / elapsed_s) if elapsed_s else 0.0,
            steal_share=spent.steal / spent.total if spent.total else 0.0,
            throttled=throttled,
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
    text = read("/proc/stat")
    if text is None:
        return None
    user, nice, system, idle, io_wait, irq, soft_irq, steal = map(int, text.split("\n", 1)[0].split()[1:9])
    busy = user + nice + system + irq + soft_irq
    return _Ticks(total=busy + idle + io_wait + steal, busy=busy, steal=steal)


def _count_throttling() -> int | None:
    """Throttling events of all cores since boot, and of our control group (its cpu.stat); None where neither tells."""
    cores = Path("/sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/core_throttle_count")
    counts = [int(found) for found in map(read, cores) if found is not None]
    quota = re.search(r"^nr_throttled (\d+)$", read("/sys/fs/cgroup/cpu.stat") or "", re.MULTILINE)
    counts += [int(quota[1])] if quota else []
    return sum(counts) if counts else None


def _own_cpu_s() -> float:
    """CPU time of this process and of its children that have ended."""
    return sum(os.times()[:4])


def _load_average() -> float | None:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _memory_bytes() -> int | None:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
