"""The tool `calculate`: a calculator with a grammar of its own, so that no text of a model is ever run as code.

    sum      = product { ("+" | "-") product }
    product  = signed { ("*" | "/" | "//" | "%") signed }
    signed   = ("+" | "-") signed | postfix [ ("**" | "^") signed ]
    postfix  = atom { "!" | "%" [ "of" signed ] }
    atom     = number | constant | function "(" sum { "," sum } ")" | "(" sum ")"

`%` is a remainder when a number follows it, and a percentage otherwise; where that is doubtful it is refused.
The text is bounded in length and depth, the numbers in size (`arithmetic.py`); so a call takes milliseconds.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from stepwell.errors import ToolError
from stepwell.tools.builtin import arithmetic
from stepwell.tools.builtin.arithmetic import CONSTANTS, FUNCTIONS, OPERATORS, Number
from stepwell.tools.mark import tool

MAX_TEXT = 1000
MAX_DEPTH = 50

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)"
    r"|(?P<name>[^\W\d]\w*)|(?P<sign>\*\*|//|[-+*/%^!(),]))"
)
_TYPED = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | str.maketrans("×÷−–·⋅∙✕✖", "*/--*****")
"""Signs as people and input methods write them, by character: full-width forms, and those of print."""
_MINUS = ("+", "-")


class _Token(NamedTuple):
    kind: str
    text: str
    place: int


@tool(effect="pure", timeout=10.0)
async def calculate(query: str) -> str:
    """Work out an arithmetic expression exactly, such as 17*23+4, 15% of 80 or sqrt(2)*pi.

    Args:
        query: The expression. It knows + - * / // % ^ ! and brackets, percentages, the functions abs, sqrt, exp, ln,
            log, log2, log10, sin, cos, tan, asin, acos, atan, degrees, radians, round, floor, ceil, min, max,
            factorial, gcd, lcm, comb, perm, hypot, pow, mod, and the constants pi, e, tau.
    """
    return evaluate(query)


def evaluate(expression: str) -> str:
    """Return the value of an expression as text.

    Raises:
        ToolError: It cannot be read or has no value within the bounds; says where and what to write instead.
    """
    if len(expression) > MAX_TEXT:
        raise ToolError(f"The expression has {len(expression)} characters; the limit is {MAX_TEXT}. Work in parts.")
    try:
        return arithmetic.text(_Parser(expression).parse())
    except ZeroDivisionError:
        raise ToolError("Division by zero has no result.") from None
    except OverflowError:
        raise arithmetic.too_large() from None


class _Parser:
    def __init__(self, expression: str) -> None:
        self.tokens = _tokens(expression)
        self.index = 0
        self.depth = 0

    @property
    def token(self) -> _Token:
        return self.tokens[self.index]

    def parse(self) -> Number:
        if self.token.kind == "end":
            raise ToolError("The expression is empty. Write one such as 2 * (3 + 4).")
        value = self.sum()
        if self.token.kind in ("number", "name") or self.token.text == "(":
            raise self.error("write an operator such as * between two values")
        if self.token.text == ",":
            raise self.error("`,` stands between arguments only; write numbers without thousands separators")
        if self.token.kind != "end":
            raise self.error("an operator was expected here")
        return value

    def sum(self) -> Number:
        value = self.product()
        while self.token.text in _MINUS:
            sign = self.take()
            value = self.apply(sign, value, self.product())
            if self.tokens[self.index - 1].text == "%":
                raise ToolError(f"{_at(sign)}say what the percentage is of, such as 100 + 5% of 100, or write (5%).")
        return value

    def product(self) -> Number:
        value = self.signed()
        while self.token.text in ("*", "/", "//", "%"):
            value = self.apply(self.take(), value, self.signed())
        return value

    def signed(self) -> Number:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self.error(f"more than {MAX_DEPTH} levels; work in parts")
        if self.token.text in _MINUS:
            negative = self.take().text == "-"
            value = self.signed()
            value = -value if negative else value
        else:
            value = self.postfix()
            if self.token.text in ("**", "^"):
                sign = self.take()
                value = self.apply(sign._replace(text="^"), value, self.signed())
        self.depth -= 1
        return value

    def postfix(self) -> Number:
        value = self.atom()
        while self.token.text in ("!", "%"):
            if self.token.text == "!":
                self.take()
                value = arithmetic.checked(arithmetic.factorial(value))
            elif self.is_remainder():
                break
            else:
                value = arithmetic.checked(arithmetic.divide(value, 100))
                if self.take_next_of():
                    value = self.apply(_Token("sign", "*", 0), value, self.signed())
        return value

    def is_remainder(self) -> bool:
        following = self.tokens[self.index + 1]
        if following.text in _MINUS:
            raise self.error("`%` before a sign is doubtful; write mod(a, b) for a remainder or (a%) for a percentage")
        return (
            following.kind == "number" or following.text == "(" or (following.kind == "name" and following.text != "of")
        )

    def take_next_of(self) -> bool:
        self.take()
        found = self.token.text == "of"
        if found:
            self.take()
        return found

    def atom(self) -> Number:
        token = self.take()
        if token.kind == "number":
            return arithmetic.literal(token.text)
        if token.text == "(":
            value = self.sum()
            self.expect(")")
            return value
        if token.kind == "name":
            return self.named(token)
        self.index = self.tokens.index(token)
        raise self.error("a number, a name or `(` was expected here")

    def named(self, token: _Token) -> Number:
        if self.token.text == "(" and token.text in FUNCTIONS:
            return self.called(token)
        if token.text in CONSTANTS:
            return CONSTANTS[token.text]
        if token.text in FUNCTIONS:
            raise self.error(f"write {token.text}(...) with brackets")
        known = ", ".join([*FUNCTIONS, *CONSTANTS])
        raise ToolError(f"{_at(token)}`{token.text[:40]}` is not known. Use numbers, + - * / // % ^ ! ( ) and {known}.")

    def called(self, token: _Token) -> Number:
        function = FUNCTIONS[token.text]
        self.take()
        values = [] if self.token.text == ")" else [self.sum()]
        while self.token.text == ",":
            self.take()
            values.append(self.sum())
        self.expect(")")
        if not function.least <= len(values) <= function.most:
            takes = str(function.least) if function.least == function.most else f"{function.least} to {function.most}"
            raise ToolError(f"{_at(token)}{token.text} takes {takes} values, not {len(values)}.")
        try:
            return arithmetic.checked(function.apply(*values))
        except ValueError:
            raise ToolError(f"{_at(token)}{token.text} has no real value there.") from None

    def apply(self, sign: _Token, left: Number, right: Number) -> Number:
        return arithmetic.checked(OPERATORS[sign.text](left, right))

    def take(self) -> _Token:
        token = self.token
        if token.kind != "end":
            self.index += 1
        return token

    def expect(self, text: str) -> None:
        if self.token.text != text:
            raise self.error(f"`{text}` was expected here")
        self.take()

    def error(self, what: str) -> ToolError:
        token = self.token
        found = "the expression ends" if token.kind == "end" else f"`{token.text[:40]}` stands"
        return ToolError(f"{_at(token)}{what}, where {found}.")


def _tokens(expression: str) -> list[_Token]:
    # Each character is replaced by one, so that places in errors are those of the text as written.
    text = expression.translate(_TYPED).rstrip().rstrip("=?").rstrip().rstrip("=?").rstrip()
    tokens: list[_Token] = []
    place = 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None or match.lastgroup is None:
            start = place + len(text[place:]) - len(text[place:].lstrip())
            raise ToolError(f"At character {start + 1}: `{expression[start]}` is no part of an expression.")
        tokens.append(_token(match.lastgroup, match[match.lastgroup].lower(), match.start(match.lastgroup)))
        place = match.end()
    return [*tokens, _Token("end", "", len(text))]


def _token(kind: str, text: str, place: int) -> _Token:
    if kind == "number" and len(text) > 1 and text[0] == "0" and text[1].isdigit():
        raise ToolError(f"At character {place + 1}: write numbers without thousands separators or zeros in front.")
    return _Token(kind, text, place)


def _at(token: _Token) -> str:
    return f"At character {token.place + 1}: "
