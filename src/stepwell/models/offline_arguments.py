"""How the embedded offline model finds a tool's arguments in a question.

A parameter's name and description say what kind of value it takes; each kind has its own form in a text. What is
not found is left out or named as missing, never invented. Which tool fits is decided in `offline_choice.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import msgspec

from stepwell.messages import ToolSpec
from stepwell.models import offline_words as words

Schema = Mapping[str, Any]

_DESCRIPTION = 400
QUOTED = re.compile(
    r"\"([^\"]*)\"|“([^”]*)”|「([^」]*)」|『([^』]*)』|```([^`]*)```|`([^`]*)`|(?<![A-Za-z0-9])'([^']*)'(?![A-Za-z0-9])"
)
_FORMS: Mapping[str, re.Pattern[str]] = {
    "email": re.compile(r"(?<![\w.+-])[\w.+-]++@[\w-]+(?:\.[\w-]+)+", re.A),
    "url": re.compile(r"https?://[^\s，。）)\"'<>]+", re.A),
    "date": re.compile(r"(?<!\d)\d{4}-\d{1,2}-\d{1,2}(?!\d)"),
    "pattern": re.compile(r"[\w./-]*\*+[./][A-Za-z][\w./*-]*", re.A),
}
_PATH = re.compile(
    r"(?<![\w./~@:*-])([\u4e00-\u9fff]{0,20})((?:~|\.{1,2})?/?[\w.-]+(?:/(?:[\w.-]|[\u4e00-\u9fff]+(?=[\w.]))+)*+/?)",
    re.A,
)
_EXTENSION = re.compile(r"\.[A-Za-z]\w{0,7}$", re.A)
_FOLDER = re.compile(
    r"\b(?:in|under|inside|of)\s+(?:the\s+)?([\w.-]+)|\b(?:folder|directory|file)\s+(?:named\s+|called\s+)?([\w.-]+)"
    r"|(?:文件夹|目录)\s*([\w.-]+)|([\w.-]+)\s*(?:文件夹|目录)",
    re.A | re.I,
)
_NUMBER = re.compile(r"(?<![\w.])-?\d++(?:\.\d++)?+(?!\w)", re.A)
_NAMED_PLACE = re.compile(
    r"\b(?:in|for|at|of|near)\s+(?:the\s+)?(?:city\s+of\s+)?([A-Z][\w'-]*(?:\s(?:(?:de|la|of)\s)?[A-Z][\w'-]*)*)"
    r"|\b(?:in|for|at)\s+([a-z][\w '-]{1,40}?)(?=\s+(?:today|tomorrow|now|right|this|please)\b|\s*[?.!,]|\s*$)"
    r"|([\u4e00-\u9fff]{2,20}?)(?:市|今天|明天|现在|的)*(?:天气|气温)"
)
_COMMAND = re.compile(
    r"(?:run|execute|运行|执行)\s*(?:(?:the\s+)?(?:shell\s+)?command|命令)?\s*[:：]?\s*"
    r"(?!(?:a|an|the|my|this|that|it|some|every|in)\b)([a-z./~][^\n。；？]*)",
    re.I,
)
_COMMAND_WORDS = re.compile(
    r"^\W*(?:please |can you |could you |请|帮我)*(?:run|execute|运行|执行)|shell|command|terminal|命令|终端", re.I
)
_WRITTEN = re.compile(
    r"\b(?:write|save|put|store|append|translate)\s+(.+?)\s+(?:in)?to\b|\b(?:saying|that says)\s+(.+)"
    r"|把(.+?)(?:写入|写到|保存到|存入|发给|发送)|(?:内容|正文)[为是:：]?\s*(.+)|[:：]\s*(.+)",
    re.I | re.S,
)
_KINDS: Mapping[str, re.Pattern[str]] = {
    kind: re.compile(rf"(?<![a-z])(?:{pattern})(?![a-z])", re.I)
    for kind, pattern in {
        "zone": r"time ?zones?|zone|tz|时区",
        "pattern": r"pattern|glob|regex|模式|通配",
        "path": r"path|file|filename|folder|directory|dir|目录|文件|路径",
        "email": r"e-?mail|recipients?|邮箱|收件人?",
        "url": r"url|link|网址|链接",
        "currency": r"currency|currencies|货币|币种",
        "place": r"city|cities|location|place|town|城市|地点|地区",
        "date": r"date|日期",
        "command": r"command|cmd|script|命令",
        "expression": r"expression|formula|arithmetic|表达式|算式",
        "content": r"contents?|text|body|message|subject|title|正文|内容|标题|主题",
    }.items()
}
_KIND_OF_TOOL = (("calculate", "expression"), ("weather", "place"), ("run", "command"), ("time", "zone"))
_LABELS: Mapping[str, str] = {
    "limit": "first|top|at most|max|lines|前|最多",
    "offset": "from line|after line|skip|从第|跳过",
    "days": "day|天",
    "subject": "主题|标题",
    "body": "正文|内容",
    "content": "contents|内容",
    "to": "收件人",
    "key": "键",
    "name": "named|called|名字|名称|名为",
}
_FROM, _TO = re.compile(r"(?:from|source|origin|base)\b"), re.compile(r"(?:to|target|dest|destination)\b")
_NO_VALUE = r"(?!(?:of|in|from|to|for|is|and|the|into|with)\b)"


class Question(msgspec.Struct, frozen=True):
    """A question taken apart.

    Args:
        text: All of it.
        quoted: The texts in quotation marks.
        plain: The rest of it.
        bare: The rest without addresses, dates and paths either.
        terms: What `bare` says, as `offline_words.terms`.
        expression: The arithmetic that it asks for; may be empty.
    """

    text: str
    quoted: tuple[str, ...]
    plain: str
    bare: str
    terms: tuple[str, ...]
    expression: str


class Offer(msgspec.Struct, frozen=True):
    """A tool with what its specification says.

    Args:
        tool: The tool.
        name: The terms of its name.
        about: The terms of its description and parameters that its name does not say.
        acts: The terms of its name that say it changes something.
        properties: Its parameters' schemas.
        required: The names of those that it must have.
    """

    tool: ToolSpec
    name: frozenset[str]
    about: frozenset[str]
    acts: frozenset[str]
    properties: dict[str, Schema]
    required: tuple[str, ...]


class Pick(msgspec.Struct, frozen=True):
    """A tool chosen for a question.

    Args:
        tool: The tool.
        arguments: What was found for its parameters.
        missing: The required parameters for which nothing was found.
    """

    tool: ToolSpec
    arguments: dict[str, Any]
    missing: tuple[str, ...]


def question(text: str) -> Question:
    """Take a text apart."""
    plain = bare = QUOTED.sub(" ", text)
    quoted = tuple(_groups(QUOTED, text))
    for form in _FORMS.values():
        bare = form.sub(" ", bare)
    for path in _paths(bare):
        bare = bare.replace(path, " ")
    found = next((each for each in map(words.expression, (bare, *quoted)) if each), "")
    terms = tuple(words.terms(bare))
    allowed = 0 if re.fullmatch(r"\d+[-/]\d+", found) else 1
    meant = "calculate" in terms or "=" in bare or len(set(terms)) <= allowed
    return Question(text, quoted, plain, bare, terms, found if meant else "")


def offer(tool: ToolSpec) -> Offer:
    """Read a tool's specification."""
    found: dict[str, Any] = tool.parameters.get("properties") or {}
    properties = {name: _resolved(schema, tool.parameters) for name, schema in found.items()}
    name = set(words.terms(spaced(tool.name)))
    if name == {"today"}:
        name.add("time")
    about = words.terms(f"{tool.description[:_DESCRIPTION]} {' '.join(map(spaced, properties))}")
    required = tuple(tool.parameters.get("required") or ())
    return Offer(tool, frozenset(name), frozenset(about) - name, words.ACTS & name, properties, required)


def spaced(name: str) -> str:
    """Return a name in snake, kebab or camel case as separate words."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[_.-]+", " ", name)


def fill(each: Offer, asked: Question, have: Mapping[str, Any] | None = None, answer: bool = False) -> Pick:
    """Find a tool's arguments in a question, those of an unmistakable form first.

    Args:
        each: The tool.
        asked: The question.
        have: Arguments found before.
        answer: The text answers what was missing, so all of it may be the value.
    """
    arguments = dict(have or {})
    kinds = {name: _kind(each, name, schema) for name, schema in each.properties.items()}
    for name in sorted(kinds, key=lambda name: kinds[name] in ("", "content")):
        known = (have or {}) if answer else arguments
        last = name in each.required and all(other in known or other == name for other in each.required)
        if name not in arguments:
            finder = _Finder(asked, each, name, kinds[name], last, answer, arguments)
            if (value := finder.value(each.properties[name])) is not None:
                arguments[name] = value
    missing = tuple(name for name in each.required if name not in arguments)
    return Pick(each.tool, {name: arguments[name] for name in each.properties if name in arguments}, missing)


def each_of(pick: Pick, asked: Question) -> list[Pick]:
    """Return one call for each of the places or paths that a question joins, as in `… in Paris and Rome`."""
    each = offer(pick.tool)
    kinds = {name: _kind(each, name, schema) for name, schema in each.properties.items()}
    names = [name for name in pick.arguments if kinds[name] in ("zone", "place", "path")]
    if len(names) != 1 or each.acts:
        return [pick]
    paths = [(path, path) for path in _paths(asked.plain)]
    found = paths if kinds[names[0]] == "path" else words.places(asked.text)
    values = [written if kinds[names[0]] == "place" else value for written, value in found]
    joined = r"\s*(?:and|[,，、和与&]|\s)+\s*".join(re.escape(written) for written, _ in found)
    if len(found) < 2 or not re.search(joined, asked.text):
        return [pick]
    return [Pick(pick.tool, {**pick.arguments, names[0]: value}, pick.missing) for value in values]


def _resolved(schema: Any, root: Schema) -> Schema:
    """Return a parameter's schema without `null`, `anyOf` and one level of `$ref`."""
    if not isinstance(schema, dict):
        return {}
    found = cast(dict[str, Any], schema)
    options = [part for part in found.get("anyOf") or found.get("oneOf") or () if part.get("type") != "null"]
    if options:
        found = {**found, **options[0]}
    if ref := found.get("$ref"):
        found = {**root.get("$defs", {}).get(str(ref).rpartition("/")[2], {}), **found}
    if isinstance(kinds := found.get("type"), list):
        found = {**found, "type": next((kind for kind in cast(list[str], kinds) if kind != "null"), "string")}
    return found


def _kind(each: Offer, name: str, schema: Schema) -> str:
    """Return what a parameter takes: by its name, else by its tool's name, else by its description."""
    name = spaced(name).lower()
    if name in ("to", "cc", "bcc") and "email" in each.name:
        return "email"
    of_name = [kind for kind, pattern in _KINDS.items() if pattern.search(name)]
    of_tool = [kind for term, kind in _KIND_OF_TOOL if term in each.name]
    text = str(schema.get("description", ""))
    of_text = sorted((hit.start(), kind) for kind, pattern in _KINDS.items() if (hit := pattern.search(text)))
    return next(iter((*of_name, *of_tool, *(kind for _, kind in of_text))), "")


def _paths(text: str) -> list[str]:
    found: list[str] = []
    for before, written in _PATH.findall(text):
        path = written.rstrip(".")
        if path.startswith(".") and before and not path.startswith(("./", "../")):
            path = words.trim(before, filter(words.is_concept, words.terms(before))) + path
        letters = set(re.findall(r"[a-z]+", path.lower())) - {"pi", "e", "tau"}
        if letters and ("/" in path or "~" in path or _EXTENSION.search(path)):
            found.append(path)
    return found


def _groups(pattern: re.Pattern[str], text: str) -> list[str]:
    return ["".join(match.groups("")) for match in pattern.finditer(text)]


def _number(text: str, kind: str) -> int | float | None:
    if "." not in text:
        return int(text)
    value = float(text)
    return value if kind == "number" and math.isfinite(value) else None


class _Finder(msgspec.Struct, frozen=True):
    """Looks for the value of one parameter in a question.

    Args:
        asked: The question.
        of: The tool.
        name: The parameter.
        kind: What it takes; empty for any text.
        last: It is required and all else that is required is there: what the sentence is about may be meant.
        answer: As in `fill`.
        taken: The arguments found so far.
    """

    asked: Question
    of: Offer
    name: str
    kind: str
    last: bool
    answer: bool
    taken: Mapping[str, Any]

    def value(self, schema: Schema) -> Any:
        """Return the value as the schema wants it; None when there is none."""
        if "enum" in schema:
            return next((option for option in schema["enum"] if self._says(str(option))), None)
        match schema.get("type", "string"):
            case "integer" | "number" as kind:
                return next(iter(self._numbers(kind)), None)
            case "boolean":
                return self._boolean()
            case "array":
                items = _resolved(schema.get("items"), {}).get("type", "string")
                return (self._strings() if items == "string" else self._numbers(items)) or None
            case "string":
                return next(iter(self._strings()), None)
            case _:
                return None

    @property
    def _required(self) -> bool:
        return self.name in self.of.required

    def _label(self) -> str:
        name = self.name.lower()
        label = "|".join(filter(None, (re.escape(name), re.escape(spaced(name)), _LABELS.get(name, ""))))
        return f"(?<![a-z_-])(?:{label})(?![a-z_])"

    def _says(self, option: str) -> bool:
        if re.search(rf"(?<![a-z0-9]){re.escape(option.lower())}(?![a-z0-9])", self.asked.text.lower()):
            return True
        meant = set(words.terms(spaced(option)))
        return bool(meant) and meant.issubset(self.asked.terms)

    def _numbers(self, kind: str) -> list[int | float]:
        label = self._label()
        pattern = rf"{label}\s*(?:[=:：]|is|为|是)?\s*(-?\d+(?:\.\d+)?)|(\d+)\s*-?{label}"
        labelled = _groups(re.compile(pattern, re.I | re.A), self.asked.plain)[:1]
        found = labelled or _NUMBER.findall(re.sub(r"(?<=\d),(?=\d{3})", "", self.asked.bare))
        numbers = [number for text in found if (number := _number(text, kind)) is not None]
        for value in () if labelled else self.taken.values():
            if value in numbers:
                numbers.remove(value)
        return numbers if labelled or self._required or self.answer or self._is_next_number(len(numbers)) else []

    def _is_next_number(self, left: int) -> bool:
        """Whether a tool of numbers, such as `divide(a, b=2)`, is given one for each of its parameters."""
        numeric = {name for name, schema in self.of.properties.items() if schema.get("type") in ("integer", "number")}
        return not numeric.isdisjoint(self.of.required) and left == len(numeric - self.taken.keys())

    def _boolean(self) -> bool | None:
        said = self.asked.plain.lower()
        if labelled := re.search(rf"{self._label()}\s*(?:[=:：]|is|为|是)\s*(true|false|yes|no|是|否)", said, re.A):
            return labelled[1] in ("true", "yes", "是")
        negated = re.search(r"\b(?:no|not|don't|without|never)\b|不|别", said)
        return True if not negated and set(words.terms(spaced(self.name))) & set(self.asked.terms) else None

    def _strings(self) -> list[str]:
        taken = [str(value) for value in self.taken.values()]
        found = [text.strip() for text in (*self._labelled(), *self._candidates())]
        if self.answer and self.last and not (any(found) or self.of.acts or self.kind == "expression"):
            found = [words.trim(self.asked.text) or self.asked.text.strip()]
        return [text for text in found if text and text not in taken]

    def _labelled(self) -> Iterator[str]:
        """Yield what follows the parameter's own name: `key=alpha`, `subject "Hi"`, `内容为…`."""
        text = self.asked.text
        others = "|".join(re.escape(name) for name in self.of.properties if name != self.name) or r"\Z"
        end = rf"(?=\s*(?:[,，;；\n]\s*)?(?:\b(?:and|with)\s+)*\b(?:{others})\b|\s*[,，;；\n]|$)"
        value = rf"(?P<value>.+?){end}" if self.kind in ("", "content") else r"(?P<value>[^\s,，;；。]+)"
        sign = r"(?:\s*[=:：为是]\s*|\s+is\s+)"
        between = rf"(?:{sign}|\s+{_NO_VALUE})" if self.kind == "content" else sign
        pattern = rf"{self._label()}(?:(?:{sign}|\s*)(?:{QUOTED.pattern})|{between}{value})"
        quoted = [match.span() for match in QUOTED.finditer(text)]
        for match in re.finditer(pattern, text, re.I | re.A):
            if not any(start < match.start() < end for start, end in quoted):
                yield "".join(match.groups(""))

    def _candidates(self) -> Sequence[str]:
        asked = self.asked
        if (form := _FORMS.get(self.kind)) and (found := form.findall(asked.text)):
            return found
        match self.kind:
            case "email" | "url" | "date":
                return []
            case "pattern":
                return [] if "path" in self.of.properties else self._folder_patterns()
            case "zone":
                return [zone for _, zone in words.places(asked.text)]
            case "place":
                named = _groups(_NAMED_PLACE, asked.text)
                return self._places() or [words.trim(place, {"search", "today"}) for place in named]
            case "path":
                return self._some_paths()
            case "currency":
                return self._currencies()
            case "expression":
                return [asked.expression]
            case "command":
                return asked.quoted or (_groups(_COMMAND, asked.plain) if _COMMAND_WORDS.search(asked.plain) else [])
            case _:
                return self._free_texts()

    def _some_paths(self) -> list[str]:
        """Return the paths of the question; none of several for a tool that changes something."""
        found = [text for text in self.asked.quoted if " " not in text and _paths(text) == [text]]
        found += _paths(self.asked.plain)
        if found:
            return found if len(set(found)) == 1 or not self.of.acts else []
        for text in _groups(_FOLDER, self.asked.bare):
            if text[0].isdigit() or not all(map(words.is_concept, words.terms(text))):
                found.append(text)
        rest = self._rest() if self._required else ""
        return found or re.findall(r"^[A-Z][\w.-]*$", rest, re.A)

    def _folder_patterns(self) -> list[str]:
        return [path if _EXTENSION.search(path) else f"{path.rstrip('/')}/*" for path in self._some_paths()]

    def _currencies(self) -> list[str]:
        """Return the codes that may be meant; the currency beside a number is the one converted from."""
        text, found = self.asked.plain, words.currencies(self.asked.plain)
        codes = [code for code, _, _ in found]
        if self.answer:
            return codes
        beside = [c for c, start, end in found if re.search(r"\d\s*$", text[:start]) or re.match(r"\s*\d", text[end:])]
        source = next(iter(beside or codes), "")
        others = [code for code in codes if code != source]
        return others if _TO.match(spaced(self.name)) else [source, *others]

    def _places(self) -> list[str]:
        """Return the known places that may stand on this parameter's side of a journey."""
        name, found = spaced(self.name), [place for place, _ in words.places(self.asked.text)]
        if not (other := "to|到|去|往" if _FROM.match(name) else "from|从" if _TO.match(name) else ""):
            return found
        return [place for place in found if not re.search(rf"(?:{other})\s*{re.escape(place)}", self.asked.text)]

    def _free_texts(self) -> Sequence[str]:
        """Return quoted texts, else what the sentence is about."""
        asked, name = self.asked, spaced(self.name)
        quoted = [text for text in asked.quoted if text not in self.taken.values()]
        if quoted or not self._required:
            return quoted if self._required or self.kind == "content" else []
        if _TO.match(name) or _FROM.match(name):
            side = "to|into|成|到" if _TO.match(name) else "from|从"
            return re.findall(rf"(?:{side})\s*([A-Z]?[a-z]+|[\u4e00-\u9fff]+)", asked.bare)
        if asked.expression and "calculate" in self.of.about:
            return [asked.expression]
        if self.kind == "content" and (written := _groups(_WRITTEN, asked.text)):
            return written
        return [self._rest()] if self.last and not (self.kind == "content" and self.of.acts) else []

    def _rest(self) -> str:
        """Return the question without what was taken from it and without the words that chose the tool."""
        text = self.asked.text
        for value in self.taken.values():
            text = text.replace(str(value), " ")
        said = {*filter(words.is_concept, self.of.about), *words.terms(spaced(self.name)), "search", "read"}
        return words.trim(text, self.of.name | said, self.of.name - {"search", "read"})
