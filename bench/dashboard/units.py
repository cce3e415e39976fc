"""Numbers in Grafana's format, and round axis marks."""

import math

_MARKS = 5


def write(value: float, unit: str) -> str:
    """Renders a value with its unit."""
    if unit == "percentunit":
        return f"{_short(value * 100)}%"
    if unit == "currencyUSD":
        return f"${value:.2f}" if value >= 0.1 or value == 0 else f"${_short(value)}"
    if unit == "s":
        return _write_seconds(value)
    return f"{_short(value)} req/s" if unit == "reqps" else _short(value)


def marks(top: float) -> list[float]:
    """Returns round numbers from 0 to the first that is not below `top`."""
    if top <= 0:
        return [0.0, 1.0]
    rough = top / _MARKS
    magnitude: float = 10.0 ** math.floor(math.log10(rough))
    step = next(size * magnitude for size in (1, 2, 2.5, 5, 10) if size * magnitude >= rough * 0.999)
    return [step * number for number in range(math.ceil(top / step - 1e-9) + 1)]


def _write_seconds(value: float) -> str:
    if value >= 60:
        return f"{_short(value / 60)} min"
    return f"{_short(value)} s" if value >= 1 or value == 0 else f"{_short(value * 1000)} ms"


def _short(value: float) -> str:
    """Renders three significant digits."""
    for size, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if abs(value) >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"
