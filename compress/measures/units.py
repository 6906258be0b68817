"""Numbers as a table shows them: three digits, a unit, a dash for what was not measured."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compress.measures.intervals import Estimate


def format_bytes(size: int) -> str:
    """Decimal units, as file managers show: 2.81 MB, 99.4 kB."""
    return _scale(size, {" GB": 1e9, " MB": 1e6, " kB": 1e3, " B": 1.0})


def format_count(count: int | None) -> str:
    """696k, 11.2M, or a dash."""
    return "-" if count is None else _scale(count, {"G": 1e9, "M": 1e6, "k": 1e3, "": 1.0})


def format_ms(value: float | None) -> str:
    """Three significant digits, or a dash."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def format_rate(value: float) -> str:
    """A number a second, three significant digits at least: 5,120 or 31.4."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def format_share(estimate: "Estimate | None", *, sign: str) -> str:
    """A share (0 to 1) in percent with its interval, or a dash; sign "+" also marks gains."""
    if estimate is None:
        return "-"
    value, low, high = (100 * bound for bound in estimate)
    return f"{value:{sign}.2f}" if low == high else f"{value:{sign}.2f} [{low:{sign}.1f}, {high:{sign}.1f}]"


def format_speedup(estimate: "Estimate | None", *, measurable: bool) -> str:
    """12.3x [12.0, 12.6], with ~ before a speedup within the noise, or a dash."""
    if estimate is None:
        return "-"
    value, low, high = map(format_factor, estimate)
    return f"{'' if measurable else '~'}{value}x [{low}, {high}]"


def format_factor(value: float) -> str:
    """Three significant digits: 1.23, 12.3, 123."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _scale(value: float, units: dict[str, float]) -> str:
    """Three significant digits in the largest unit that the rounded value reaches."""
    unit, scale = next(
        ((name, scale) for name, scale in units.items() if value >= 0.9995 * scale), (list(units)[-1], 1.0)
    )
    return f"{value / scale:.3g}{unit}"
