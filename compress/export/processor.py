"""What a CPU can do that decides how int8 is computed."""

from pathlib import Path

VNNI = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"})  # x86, then ARM
NOTABLE = VNNI | {"avx2", "avx512f", "avx512bw", "amx_bf16", "avx512_bf16", "asimd", "sve"}


def cpu_flags() -> frozenset[str]:
    """The CPU's feature flags as Linux names them; empty where they cannot be read."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in {"flags", "Features"}:
            return frozenset(value.split())
    return frozenset()


def can_saturate(variant: str) -> bool:
    """Whether the products of a variant, given by its name or its file's, may saturate where the CPU's do.

    Two products of uint8 and 7 bits fit into the 16 bits that they are added in: 2 * 255 * 63 < 2**15. Weights of
    blocks (``int8-weights``) are multiplied by other kernels.
    """
    return variant.startswith("int8") and not any(other in variant for other in ("-7bit", "-weights"))


def saturates() -> bool:
    """Whether products of uint8 and int8 saturate here: two of them are added in 16 bits on x86 without VNNI."""
    flags = cpu_flags()
    return "ssse3" in flags and not VNNI & flags
