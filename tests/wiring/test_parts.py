"""Single parts by name."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import pytest

from stepwell.config import ModelSettings
from stepwell.errors import ConfigError, ToolError
from stepwell.models.base import ModelProfile
from stepwell.wiring.parts import completer, dialect_for, make_dialect, make_model, model_profile
from tests.support.endpoint import Endpoint, error, text


def at(base_url: str, **settings: Any) -> ModelSettings:
    return ModelSettings(base_url=base_url, **settings)


@pytest.mark.parametrize(
    ("setting", "native", "dialect"),
    [("", True, ""), ("", False, "react"), ("native", False, ""), ("react", True, "react"), ("other", True, "other")],
)
def test_a_dialect_is_the_settings_or_the_familys(setting: str, native: bool, dialect: str) -> None:
    assert dialect_for(setting, ModelProfile(native_tools=native)) == dialect


def test_dialects_and_prompts_that_are_not_there_are_named_with_those_that_are() -> None:
    assert make_dialect("react", "default", "zh").name == "react"
    with pytest.raises(ConfigError, match=r"no dialect 'none'; known: native, react"):
        make_dialect("none", "default", "en")
    with pytest.raises(ConfigError, match="default"):
        make_dialect("react", "none", "en")


def test_what_the_settings_say_of_a_model_goes_before_what_its_family_is_known_for() -> None:
    known = model_profile("gpt-4o", at("http://x/v1"))
    said = model_profile("gpt-4o", at("http://x/v1", window=999, images=not known.images))
    assert (said.window, said.images) == (999, not known.images)
    assert model_profile("mine", at("http://x/v1", model="gpt-4o")) == known
    assert model_profile("any", ModelSettings(kind="offline")).native_tools


def test_a_tools_question_goes_to_its_model_and_a_failure_is_the_tools() -> None:
    async def main() -> None:
        async with Endpoint([text("for", "ty"), error(400, "not today")]) as endpoint:
            model = make_model("m", at(endpoint.base_url, attempts=1), "sk-1")
            complete = completer(model, "other-name")
            assert await complete("How many?") == "forty"
            assert endpoint.requests[0].body["model"] == "other-name"
            assert endpoint.requests[0].body["messages"] == [{"role": "user", "content": "How many?"}]
            assert "tools" not in endpoint.requests[0].body
            with pytest.raises(ToolError, match="not today"):
                await complete("And now?")
            await model.close()

    asyncio.run(main())


def test_what_is_not_used_is_not_imported() -> None:
    program = (
        "import sys\n"
        "from stepwell.config import Config\n"
        "from stepwell.wiring.host import open_host\n"
        "from stepwell.wiring.catalog import ConfigCatalog\n"
        "config = Config(models={'m': {'base_url': 'http://127.0.0.1:1/v1'}})\n"
        "catalog = ConfigCatalog(config)\n"
        "catalog.models(), catalog.tools()\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules} & {'aiohttp', 'fastapi', 'uvicorn', 'apsw'}))\n"
        "from stepwell.wiring.parts import preload\n"
        "preload(config)\n"
        "print('aiohttp' in sys.modules, 'stepwell.engines.chat' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=True)
    assert done.stdout == "\nTrue True\n"


def test_a_server_of_mcp_that_also_uses_servers_of_mcp_has_its_sdk_before_a_thread_imports_the_other_half() -> None:
    program = (
        "import sys\n"
        "from stepwell.config import Config\n"
        "from stepwell.wiring.parts import preload\n"
        "preload(Config())\n"
        "before = 'mcp' in sys.modules\n"
        "preload(Config(mcp_server={'enabled': True}))\n"
        "print(before, {'mcp', 'mcp.server', 'mcp.client', 'stepwell.server.mcp.sessions'} <= set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=True)
    assert done.stdout == "False True\n"
