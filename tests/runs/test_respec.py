"""How a run goes on with another model in a fork."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from stepwell.config import Config
from stepwell.errors import InputError
from stepwell.events import MessageAdded, Recorded, RunStarted
from stepwell.messages import Message
from stepwell.runs.catalog import Wish
from stepwell.runs.respec import respec
from stepwell.wiring.catalog import ConfigCatalog

AT = "http://127.0.0.1:1/v1"


def test_all_but_the_model_stays_what_the_client_attached_too(tmp_path: Path) -> None:
    catalog = ConfigCatalog(Config(data=tmp_path, models={"m": {"base_url": AT}, "n": {"base_url": AT}}))  # type: ignore[arg-type]
    wish = Wish(text="go", model="m", system="S", tools=["now"], temperature=0.5, engine="react", key="k")
    old = msgspec.structs.replace(catalog.spec(wish), agent="a", metadata={"ticket": "7"})
    events = [Recorded(1, 0, 1, RunStarted(old)), Recorded(2, 0, 1, MessageAdded(Message("user", "go")))]
    assert respec(events, 2, "n", catalog) == msgspec.structs.replace(old, model="n")
    with pytest.raises(InputError) as caught:
        respec(events, 2, "none", catalog)
    assert caught.value.field == "model"
    with pytest.raises(InputError) as caught:
        respec(events[1:], 1, "n", catalog)
    assert caught.value.field == "model"
