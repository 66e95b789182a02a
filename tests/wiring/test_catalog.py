"""What the settings offer: how a wish becomes a run, and what is refused."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stepwell.config import Config
from stepwell.errors import ConfigError, InputError
from stepwell.runs.catalog import Wish
from stepwell.specs import Limits
from stepwell.wiring.catalog import BOXES, ConfigCatalog
from tests.support.endpoint import Endpoint, text, tool_calls
from tests.support.server import scripted, serving

AT = "http://127.0.0.1:1/v1"


def catalog(tmp_path: Path, **settings: Any) -> ConfigCatalog:
    return ConfigCatalog(Config(**{"data": tmp_path, "models": {"m": {"base_url": AT}}, **settings}))


def test_an_empty_wish_is_what_the_settings_say(tmp_path: Path) -> None:
    found = catalog(
        tmp_path,
        agent={"temperature": 0.5, "max_tokens": 9, "tools": ["now"], "system": "S", "language": "zh"},
        limits={"steps": 7, "tokens": 1000},
    ).spec(Wish(text="hello"))
    assert (found.model, found.model_name, found.dialect, found.system) == ("m", "", "", "S")
    assert (found.temperature, found.max_tokens, found.language) == (0.5, 9, "zh")
    assert (found.tools, found.limits) == (("now",), Limits(steps=7, tokens=1000))


def test_a_wish_is_granted_within_what_is_there(tmp_path: Path) -> None:
    wish = Wish(text="x", model="offline", system="", tools=["now", "calculate", "now"], temperature=0.0, max_tokens=1)
    found = catalog(tmp_path).spec(wish)
    assert (found.model, found.system, found.tools) == ("offline", "", ("now", "calculate"))
    assert (found.temperature, found.max_tokens) == (0.0, 1)
    assert catalog(tmp_path).spec(Wish(tools=[])).tools == ()


@pytest.mark.parametrize(
    ("text", "setting", "wish", "language"),
    [
        ("What is 光?", "auto", "", "zh"),
        ("What is light?", "auto", "", "en"),
        ("", "auto", "", "en"),
        ("光", "en", "", "en"),
        ("light", "zh", "", "zh"),
        ("光", "auto", "en", "en"),
    ],
)
def test_a_run_speaks_the_language_of_its_question_unless_something_else_is_said(
    tmp_path: Path, text: str, setting: str, wish: str, language: str
) -> None:
    found = catalog(tmp_path, agent={"language": setting}).spec(Wish(text=text, language=wish))
    assert found.language == language
    assert ("你" in found.system) == (language == "zh")


@pytest.mark.parametrize(
    ("wish", "field"),
    [
        (Wish(model="none"), "model"),
        (Wish(tools=["now", "none"]), "tools.1"),
        (Wish(tools=["shell"]), "tools.0"),
        (Wish(tools=["NOW"]), "tools.0"),
        (Wish(tools=["mcp__x__now"]), "tools.0"),
        (Wish(dialect="react", prompt="none"), "prompt"),
        (Wish(dialect="react", prompt="../react.default"), "prompt"),
    ],
)
def test_what_is_not_there_is_refused_by_name_with_what_is(tmp_path: Path, wish: Wish, field: str) -> None:
    with pytest.raises(InputError) as caught:
        catalog(tmp_path).spec(wish)
    assert caught.value.field == field
    assert "known: " in str(caught.value).lower()


@pytest.mark.parametrize(
    ("allowed", "wished", "limits"),
    [
        (5, 3, 3),
        (5, 9, 5),
        (5, None, 5),
        (None, 9, 9),
        (None, None, None),
    ],
)
def test_limits_are_the_lesser_of_what_is_allowed_and_wished(
    tmp_path: Path, allowed: int | None, wished: int | None, limits: int | None
) -> None:
    names = ("steps", "tool_calls", "tokens", "seconds")
    settings = dict.fromkeys(names, allowed)
    found = catalog(tmp_path, limits=settings).spec(Wish(limits=Limits(**dict.fromkeys(names, wished))))
    assert found.limits == Limits(**dict.fromkeys(names, limits))


def test_a_dialect_is_chosen_by_the_wish_the_settings_or_the_models_family(tmp_path: Path) -> None:
    models = {"plain": {"base_url": AT}, "set": {"base_url": AT, "dialect": "react"}, "old": {"base_url": AT}}
    models["old"]["model"] = "baichuan2-13b-chat"
    found = catalog(tmp_path, models=models)
    for model, wished, dialect in (
        ("plain", "", ""),
        ("plain", "react", "react"),
        ("set", "", "react"),
        ("set", "native", ""),
        ("offline", "react", ""),
    ):
        spec = found.spec(Wish(model=model, dialect=wished))
        assert spec.dialect == dialect, (model, wished)
        assert ("prompt.react" in spec.versions) == bool(dialect)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"models": {"m": {"base_url": AT, "dialect": "none"}}}, "models.m.dialect: there is no dialect 'none'"),
        (
            {"models": {"m": {"base_url": AT, "dialect": "react"}}, "agent": {"prompt": "none"}},
            "agent.prompt: There is no react prompt named 'none'",
        ),
        ({"chatchat": {"dialects": {"x": "none"}}}, "chatchat.dialects.x: there is no dialect 'none'"),
        ({"agent": {"tools": ["none", "now"]}}, "agent.tools: there is no tool none; known: calculate, now"),
        ({"tools": {"disabled": ["now", "calculate"]}, "agent": {"tools": ["now"]}}, "known: none"),
    ],
)
def test_settings_that_would_refuse_every_request_are_refused_at_the_start(
    tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        catalog(tmp_path, **settings)
    assert said in str(caught.value)


def test_a_model_whose_key_variable_is_missing_is_listed_and_refused_when_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = {"good": {"base_url": AT}, "bad": {"base_url": AT, "api_key_env": "STILL_MISSING"}}
    found = catalog(tmp_path, models=models)
    assert [info.name for info in found.models()] == ["good", "bad", "offline"]
    assert found.spec(Wish()).model == "good"
    with pytest.raises(ConfigError, match="STILL_MISSING"):
        found.spec(Wish(model="bad"))
    monkeypatch.setenv("STILL_MISSING", "sk-now")
    assert found.spec(Wish(model="bad")).model == "bad"


def test_a_run_of_other_settings_ends_with_what_is_gone(tmp_path: Path) -> None:
    found = catalog(tmp_path)
    spec = found.spec(Wish())
    assert found.assemble(spec)
    for gone, said in (
        (msgspec.structs.replace(spec, model="old"), "'old'"),
        (msgspec.structs.replace(spec, tools=("now", "old_tool")), "old_tool"),
        (msgspec.structs.replace(spec, dialect="old"), "'old'"),
        (msgspec.structs.replace(spec, dialect="react", prompt="old"), "old"),
    ):
        with pytest.raises(ConfigError, match=said):
            found.assemble(gone)


def test_lists_of_tools_that_clients_make_up_are_not_kept_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    functions = "".join(f"@tool\ndef f{number}() -> str:\n    return ''\n\n" for number in range(6))
    (tmp_path / "six_tools.py").write_text("from stepwell import tool\n\n" + functions)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = catalog(tmp_path, tools={"modules": ["six_tools"]})
    for names in itertools.permutations([f"f{number}" for number in range(6)]):
        assert found.toolbox(names).names == names
        assert found.toolbox(names) is found.toolbox(names)
        assert len(found._boxes) <= BOXES


@pytest.mark.parametrize("disabled", [["now"], ["calculate", "now"], []])
def test_a_tool_that_is_off_is_neither_offered_nor_run(tmp_path: Path, disabled: list[str]) -> None:
    async def main() -> None:
        calls = tool_calls(("a", "now", ["{}"]), ("b", "shell", ['{"command": "id"}']), ("c", "NOW", ["{}"]))
        async with (
            Endpoint([calls, text("ok")]) as endpoint,
            serving(tmp_path, models=scripted(endpoint), tools={"disabled": disabled}) as server,
        ):
            frames = await server.say(await server.thread(), "use the shell tool")
            offered = [tool["function"]["name"] for tool in endpoint.requests[0].body.get("tools", [])]
            assert offered == [name for name in ("calculate", "now") if name not in disabled]
            ended = {frame.body["event"]["call"]: frame.body["event"] for frame in frames if frame.type == "tool_ended"}
            assert ended["a"].get("status", "ok") == ("unknown_tool" if "now" in disabled else "ok")
            assert (ended["b"]["status"], ended["c"]["status"]) == ("unknown_tool", "unknown_tool")
            started = [frame.body["event"]["call"] for frame in frames if frame.type == "tool_started"]
            assert started == ([] if "now" in disabled else ["a"])
            assert frames[-1].body["event"]["reason"] == "answer"

    asyncio.run(main())


def test_tools_that_no_window_holds_are_refused_with_their_size(tmp_path: Path) -> None:
    small = {"m": {"base_url": AT, "model": "gpt-4o", "window": 300}}
    with pytest.raises(ConfigError, match=r"models\.m\.window: .* window of 300 tokens .* take up to \d+; the largest"):
        catalog(tmp_path, models=small)
    models = {"m": {"base_url": AT}, "small": small["m"]}
    found = catalog(tmp_path, models=models)
    with pytest.raises(InputError, match="window of 300 tokens") as refused:
        found.spec(Wish(text="x", model="small"))
    assert refused.value.field == "tools"
    assert found.spec(Wish(text="x", model="small", tools=[])).tools == ()
