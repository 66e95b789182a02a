"""The numbers and functions of the calculator: exact where they can be, and bounded in size.

Whole and decimal numbers are exact (`0.1 + 0.2` is `0.3`); roots, logarithms and the like are floats. Every
result is checked, so that no chain of operations grows without end. Parsing is in `calculate.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from decimal import Context, Decimal, Inexact
from fractions import Fraction
from types import MappingProxyType
from typing import NamedTuple

from stepwell.errors import ToolError

Number = int | Fraction | float

MAX_BITS = 10_000
"""The size of the largest whole number, about 3,010 digits."""
EXACT_DIGITS = 40
"""A decimal number of up to this many digits is printed whole."""
DIGITS = 15
"""Significant digits of a number that is not printed whole: as many as a float holds for certain."""


class Function(NamedTuple):
    """A named function.

    Args:
        least: The fewest arguments it takes.
        most: The most.
        apply: The function.
    """

    least: int
    most: int
    apply: Callable[..., Number]


def too_large() -> ToolError:
    """Return the error for a number beyond the bounds."""
    return ToolError(f"The result is too large: the limit is {MAX_BITS:,} bits, about 3,010 digits.")


def too_small() -> ToolError:
    """Return the error for a number that is not 0 and would be shown as 0."""
    return ToolError("The result is too close to 0 to be shown.")


def checked(value: Number) -> Number:
    """Return a result in its simplest form.

    Raises:
        ToolError: It is too large, too close to 0 or no number.
    """
    if isinstance(value, Fraction):
        if value.denominator == 1:
            value = value.numerator
        elif max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
            value = float(value)
            if not value:
                raise too_small()
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise too_large()
    if isinstance(value, float) and not math.isfinite(value):
        raise too_large() if math.isinf(value) else ToolError("The result is not a number.")
    return value


def literal(text: str) -> Number:
    """Read a number as written: digits, a point, an exponent.

    Raises:
        ToolError: Its exponent is out of bounds.
    """
    mantissa, _, exponent = text.lower().partition("e")
    whole, _, part = mantissa.partition(".")
    power = int(exponent or "0") - len(part)
    if abs(power) > MAX_BITS // 3:
        raise ToolError(f"The exponent of {text[:40]} is out of bounds.")
    return checked(Fraction(int(whole + part or "0")) * Fraction(10) ** power)


def text(value: Number) -> str:
    """Write a number as people read it; see `EXACT_DIGITS` and `DIGITS`."""
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Fraction):
        context = Context(prec=EXACT_DIGITS, traps=[])
        quotient = context.divide(Decimal(value.numerator), Decimal(value.denominator))
        if not context.flags[Inexact]:
            return _plain(quotient, EXACT_DIGITS)
        return _plain(Context(prec=DIGITS).divide(Decimal(value.numerator), Decimal(value.denominator)), DIGITS)
    return _plain(Decimal(format(value, f".{DIGITS}g")), DIGITS)


def divide(left: Number, right: Number) -> Number:
    """Divide, exactly where both are exact."""
    if isinstance(left, float) or isinstance(right, float):
        return left / right
    return Fraction(left) / Fraction(right)


def power(base: Number, exponent: Number) -> Number:
    """Raise to a power; a whole result beyond the bounds is refused before it is made."""
    if isinstance(base, float) or not isinstance(exponent, int):
        return _float_power(float(base), float(exponent))
    size = abs(exponent) * max(_log2(base.numerator), _log2(base.denominator))
    if size <= MAX_BITS + 1:
        return Fraction(base) ** exponent
    if isinstance(base, int) and exponent > 0:
        raise too_large()
    # As a float the base would be off by a digit, and the result by as many times that as the exponent says.
    context = Context(prec=EXACT_DIGITS, traps=[])
    exact = context.divide(Decimal(base.numerator), Decimal(base.denominator))
    return _not_zero(float(context.power(exact, exponent)))


def factorial(value: Number) -> Number:
    """Multiply the whole numbers up to a value."""
    count = _count("factorial", value)
    if count > MAX_BITS or math.lgamma(count + 1) > MAX_BITS * math.log(2):
        raise too_large()
    return math.factorial(count)


def _plain(value: Decimal, digits: int) -> str:
    value = value.normalize(Context(prec=EXACT_DIGITS))
    if not value:
        return "0"
    return format(value, "f") if -8 < value.adjusted() < digits else format(value, "e")


def _log2(value: int) -> float:
    return math.log2(abs(value)) if value else 0.0


def _float_power(base: float, exponent: float) -> float:
    if base < 0 and not float(exponent).is_integer():
        raise ToolError("A negative number to a broken power is not a real number.")
    return _not_zero(base**exponent) if base else base**exponent


def _not_zero(result: float) -> float:
    if not result:
        raise too_small()
    return result


def _whole(name: str, value: Number) -> int:
    if isinstance(value, int):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    raise ToolError(f"{name} takes whole numbers, not {text(value)}.")


def _count(name: str, value: Number) -> int:
    whole = _whole(name, value)
    if whole < 0:
        raise ToolError(f"{name} takes no negative numbers.")
    return whole


def _square_root(value: Number) -> Number:
    if not isinstance(value, float) and value >= 0:
        top, bottom = math.isqrt(value.numerator), math.isqrt(value.denominator)
        if top * top == value.numerator and bottom * bottom == value.denominator:
            return Fraction(top, bottom)
    return math.sqrt(float(value))


def _round(value: Number, digits: Number = 0) -> Number:
    """Round halves away from zero, as at school."""
    places = _whole("round", digits)
    if abs(places) > 100:
        raise ToolError("round takes from -100 to 100 decimal places.")
    scale = Fraction(10) ** places
    nearest = math.floor(abs(Fraction(value)) * scale + Fraction(1, 2)) / scale
    return -nearest if value < 0 else nearest


def _logarithm(of: Callable[[float], float], base: float = math.e) -> Callable[[Number], float]:
    def apply(value: Number) -> float:
        if not isinstance(value, Fraction):
            return of(value)
        beside = value - 1
        if abs(beside) < Fraction(1, 2):  # as a float it would lose the digits that count
            return math.log1p(float(beside)) / math.log(base)
        if Fraction(1, 1 << 1000) < value < 1 << 1000:
            return of(float(value))
        # It may be larger than any float; its logarithm is not.
        return of(value.numerator) - of(value.denominator)

    return apply


_ln = _logarithm(math.log)


def _log(value: Number, base: Number | None = None) -> Number:
    if base is None:
        return _ln(value)
    result = _ln(value) / _ln(base)
    whole = round(result)
    # So that floor(log(1000, 10)) is 3, though the quotient is not quite.
    near = abs(result - whole) < 1e-9 and not isinstance(value, float) and not isinstance(base, float)
    return whole if near and power(base, whole) == value else result


def _wave(of: Callable[[float], float]) -> Callable[[Number], float]:
    def apply(value: Number) -> float:
        result = of(float(value))
        # sin(pi) is 0, though pi as a float is not quite pi.
        return 0.0 if abs(result) < 1e-15 and abs(value) > 1e-8 else result

    return apply


def _combinations(n: Number, k: Number) -> Number:
    total, chosen = _count("comb", n), _count("comb", k)
    fewer = min(chosen, total - chosen)
    if fewer > 0 and fewer * (_log2(total) - _log2(fewer) + math.log2(math.e)) > MAX_BITS:
        raise too_large()
    return math.comb(total, chosen)


def _permutations(n: Number, k: Number) -> Number:
    total, chosen = _count("perm", n), _count("perm", k)
    if chosen <= total and chosen * _log2(total) > MAX_BITS:
        raise too_large()
    return math.perm(total, chosen)


def _gcd(*values: Number) -> Number:
    return math.gcd(*(_whole("gcd", each) for each in values))


def _lcm(*values: Number) -> Number:
    return math.lcm(*(_whole("lcm", each) for each in values))


def _max(*values: Number) -> Number:
    return max(values)


def _min(*values: Number) -> Number:
    return min(values)


def _absolute(value: Number) -> Number:
    return abs(value)


def _add(left: Number, right: Number) -> Number:
    return left + right


def _subtract(left: Number, right: Number) -> Number:
    return left - right


def _multiply(left: Number, right: Number) -> Number:
    return left * right


def _divide_down(left: Number, right: Number) -> Number:
    return left // right


def _remainder(left: Number, right: Number) -> Number:
    return left % right


OPERATORS: Mapping[str, Callable[[Number, Number], Number]] = MappingProxyType(
    {
        "+": _add,
        "-": _subtract,
        "*": _multiply,
        "/": divide,
        "//": _divide_down,
        "%": _remainder,
        "^": power,
    }
)
"""By sign. A remainder has the sign of its divisor, as in Python."""

_MANY = 100

FUNCTIONS: Mapping[str, Function] = MappingProxyType(
    {
        "abs": Function(1, 1, _absolute),
        "acos": Function(1, 1, math.acos),
        "asin": Function(1, 1, math.asin),
        "atan": Function(1, 1, math.atan),
        "ceil": Function(1, 1, math.ceil),
        "comb": Function(2, 2, _combinations),
        "cos": Function(1, 1, _wave(math.cos)),
        "cosh": Function(1, 1, math.cosh),
        "degrees": Function(1, 1, math.degrees),
        "exp": Function(1, 1, math.exp),
        "factorial": Function(1, 1, factorial),
        "floor": Function(1, 1, math.floor),
        "gcd": Function(2, _MANY, _gcd),
        "hypot": Function(2, _MANY, math.hypot),
        "lcm": Function(2, _MANY, _lcm),
        "ln": Function(1, 1, _ln),
        "log": Function(1, 2, _log),
        "log10": Function(1, 1, _logarithm(math.log10, 10)),
        "log2": Function(1, 1, _logarithm(math.log2, 2)),
        "max": Function(1, _MANY, _max),
        "min": Function(1, _MANY, _min),
        "mod": Function(2, 2, _remainder),
        "perm": Function(2, 2, _permutations),
        "pow": Function(2, 2, power),
        "radians": Function(1, 1, math.radians),
        "round": Function(1, 2, _round),
        "sin": Function(1, 1, _wave(math.sin)),
        "sinh": Function(1, 1, math.sinh),
        "sqrt": Function(1, 1, _square_root),
        "tan": Function(1, 1, _wave(math.tan)),
        "tanh": Function(1, 1, math.tanh),
    }
)
"""By name. Angles are in radians; `log` is the natural logarithm unless a base is given as its second argument."""

CONSTANTS: Mapping[str, float] = MappingProxyType({"pi": math.pi, "π": math.pi, "e": math.e, "tau": math.tau})
