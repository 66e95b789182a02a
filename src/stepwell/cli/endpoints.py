"""What `stepwell doctor` finds by asking: whether a server runs, and whether the models' endpoints answer."""

from __future__ import annotations

import asyncio

import aiohttp
import msgspec
from yarl import URL

from stepwell.cli.findings import Finding
from stepwell.cli.remote import find_server
from stepwell.cli.screen import Screen, short
from stepwell.config import OFFLINE, Config, ModelSettings
from stepwell.errors import ConfigError, DataInUse
from stepwell.store.lock import FolderLock
from stepwell.wiring.parts import make_model

SECONDS = 5.0
"""How long an endpoint may take to answer."""
LONGEST = 1_000_000
"""Bytes read of an endpoint's list of models."""


class _Model(msgspec.Struct):
    id: str = ""


class _Models(msgspec.Struct):
    data: list[_Model] = []


async def look_at_server(config: Config, screen: Screen, start: str) -> Finding:
    """Tell whether somebody works on the data folder, and whether it is a server that answers.

    Args:
        config: The settings.
        screen: Where to print.
        start: The command that starts one.
    """
    name = screen.say("doctor_server")
    server = await find_server(config, screen)
    if server is not None:
        await server.close()
        return Finding(name, "ok", server.url)
    try:
        if (config.folder / "lock").exists():
            FolderLock(config.folder).release()
    except DataInUse:
        return Finding(name, "warn", screen.say("doctor_held"), screen.say("doctor_held_remedy"))
    except (ConfigError, OSError) as error:
        return Finding(name, "bad", str(error))
    return Finding(name, "off", screen.say("doctor_no_server"), start)


async def look_at_models(config: Config, screen: Screen) -> list[Finding]:
    """Ask every configured endpoint for its models, all at once."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=SECONDS)) as session:
        return list(await asyncio.gather(*(_model(session, config, name, screen) for name in config.model_names)))


async def _model(session: aiohttp.ClientSession, config: Config, name: str, screen: Screen) -> Finding:
    default = screen.say("doctor_default") if name == config.model_names[0] else ""
    label = screen.say("doctor_model", name=name) + default
    settings = config.models.get(name, ModelSettings(kind="offline") if name == OFFLINE else None)
    if settings is None or settings.kind == "offline":
        return Finding(label, "ok", screen.say("doctor_embedded"))
    try:
        key = config.api_key(settings)
    except ConfigError as error:
        return Finding(label, "bad", str(error), f"export {settings.api_key_env}=…")
    if settings.kind != "openai":
        return await _built(settings, name, key, label)
    try:
        return await _ask(session, settings, settings.model or name, key, label, screen)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        cause = short(str(error), 300) or type(error).__name__
        return Finding(label, "bad", f"{_place(settings)}: {cause}", screen.say("doctor_endpoint_remedy", name=name))


async def _built(settings: ModelSettings, name: str, key: str, label: str) -> Finding:
    """Tell whether a model that has no list of models to ask for can be made at all."""
    try:
        await make_model(name, settings, key).close()
    except ConfigError as error:
        return Finding(label, "bad", str(error))
    return Finding(label, "ok", f"{settings.kind}, {settings.model or name}")


async def _ask(
    session: aiohttp.ClientSession, settings: ModelSettings, model: str, key: str, label: str, screen: Screen
) -> Finding:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    place = _place(settings)
    async with session.get(f"{settings.base_url.rstrip('/')}/models", headers=headers) as response:
        body = await response.content.read(LONGEST)
    facts = f"{place}, {model}"
    if response.status in (401, 403):
        return Finding(label, "bad", f"{place}: HTTP {response.status}", screen.say("doctor_key_remedy"))
    if response.status >= 500:
        return Finding(label, "bad", f"{place}: HTTP {response.status}")
    if response.status != 200:  # an endpoint need not have a list of its models
        return Finding(label, "ok", f"{facts} (HTTP {response.status})")
    known = _known(body)
    if known and model not in known:
        remedy = screen.say("doctor_models_known", names=short(", ".join(known), 300))
        return Finding(label, "warn", screen.say("doctor_model_unlisted", place=place, model=model), remedy)
    return Finding(label, "ok", facts)


def _known(body: bytes) -> list[str]:
    try:
        return [model.id for model in msgspec.json.decode(body, type=_Models).data if model.id]
    except msgspec.DecodeError:
        return []


def _place(settings: ModelSettings) -> str:
    return str(URL(settings.base_url).with_user(None))
