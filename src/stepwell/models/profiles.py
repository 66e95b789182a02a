"""Facts about families of models, as data: windows, native tools, names of parameters, prices.

Where a family's members differ, or a vendor's page was not at hand, the smaller figure stands, since a window
that is too small costs a little and one that is too large costs the run. They age: the settings of a model
override any of them (`profile_for(name, window=...)`). A server may also be started with a smaller window than
its model has; then its own figure belongs in the settings.

`native_tools` is off where a family has no tool calls or where its servers rarely switch them on. `dialect` names the
form that a family was trained on; it serves where `native_tools` is off.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from stepwell.errors import ConfigError
from stepwell.models.base import ModelProfile
from stepwell.specs import Prices
from stepwell.tokens import ImageRule, Tokenizer

K = 1024


def _facts(
    window: int,
    output: int = 0,
    *,
    tools: bool = True,
    images: bool = False,
    usage: bool = True,
    limit: str = "max_tokens",
    system: str = "system",
    thinks: bool = False,
    heat: bool = True,
    tokenizer: Tokenizer = "",
    rule: ImageRule = "",
    dialect: str = "react",
    ids: int = 40,
    signed: bool = False,
) -> ModelProfile:
    return ModelProfile(
        window=window,
        max_output=output,
        native_tools=tools,
        dialect=dialect,
        images=images,
        usage_in_stream=usage,
        max_tokens_name=limit,
        system_role=system,
        thinking_back=thinks,
        temperature=heat,
        tokenizer=tokenizer,
        image_tokens=rule,
        call_ids=ids,
        signed_back=signed,
    )


def _openai_thinker(
    window: int,
    output: int,
    *,
    images: bool = True,
    tokenizer: Tokenizer = "o200k",
    rule: ImageRule = "openai_patches",
) -> ModelProfile:
    return _facts(
        window,
        output,
        images=images,
        limit="max_completion_tokens",
        system="developer",
        heat=False,
        tokenizer=tokenizer,
        rule=rule,
    )


def _openai(
    window: int,
    output: int,
    *,
    images: bool = True,
    limit: str = "max_tokens",
    tokenizer: Tokenizer = "o200k",
    rule: ImageRule = "openai_tiles",
) -> ModelProfile:
    return _facts(window, output, images=images, limit=limit, tokenizer=tokenizer, rule=rule)


_FAMILIES: tuple[tuple[str, tuple[tuple[str, ModelProfile], ...]], ...] = (
    # OpenAI. Thinking models refuse `max_tokens` and `temperature` and call the system message the developer's.
    # Tokenizers as in tiktoken's list of models; names that others use too (`gpt4all`, `marco-o1`) have none.
    (
        r"gpt|o[1-9]",
        (
            (r"gpt-?oss", _facts(128 * K, 128 * K, tokenizer="o200k")),
            (r"gpt-?5.*-chat", _openai(128_000, 16_384, limit="max_completion_tokens", rule="openai_patches_large")),
            (r"gpt-?5\.4-(mini|nano)", _openai_thinker(400_000, 128_000)),
            (r"gpt-?5\.([4-9]|\d\d)", _openai_thinker(400_000, 128_000, rule="openai_patches_large")),
            (r"gpt-?5", _openai_thinker(400_000, 128_000)),
            (r"gpt-?[6-9]", _openai_thinker(400_000, 128_000, tokenizer="", rule="openai_patches_large")),
            (r"gpt-?4\.1-(mini|nano)", _openai(1_047_576, 32_768, rule="openai_patches")),
            (r"gpt-?4\.1", _openai(1_047_576, 32_768)),
            (r"gpt-?4o-mini", _openai(128_000, 16_384, rule="openai_tiles_mini")),
            (r"gpt-?4\.5|(chat)?gpt-?4o", _openai(128_000, 16_384)),
            (r"gpt-?4-(turbo|1106|0125|vision)", _openai(128_000, 4096, tokenizer="cl100k")),
            (r"gpt-?4(?=$|:|-32k|-\d{4}(?!\d))", _facts(8192, 8192, tokenizer="cl100k")),
            (r"gpt-?4", _facts(8192, 8192)),
            (r"gpt-?3\.?5", _facts(16_385, 4096, tokenizer="cl100k")),
            (
                r"o1-(mini|preview)",
                _facts(
                    128_000,
                    32_768,
                    tools=False,
                    limit="max_completion_tokens",
                    system="user",
                    heat=False,
                    tokenizer="o200k",
                ),
            ),
            (r"o3-mini", _openai_thinker(200_000, 100_000, images=False)),
            (r"^o[1-9](?![a-z0-9.])", _openai_thinker(200_000, 100_000)),
            (r"o[1-9](?![a-z0-9.])", _openai_thinker(200_000, 100_000, tokenizer="")),
        ),
    ),
    # DeepSeek. Its thinking mode wants the thinking of earlier tool calls back.
    (
        r"deepseek",
        (
            (r"deepseek-r1-distill", _facts(32 * K, tools=False)),
            (r"deepseek-?(reasoner|r\d|v4)", _facts(128 * K, 64 * K, thinks=True)),
            (r"deepseek-(vl|llm|coder-(v1|\d))", _facts(4096, tools=False)),
            (r"deepseek", _facts(128 * K, 8192)),
        ),
    ),
    # Qwen. Version 1 and 1.5 have no tool calls; `qwen:` is how Ollama names 1.5. The chat templates of 2.5 and 3 ask
    # for tool calls in the form of Hermes; the coders of 3 and 3.5 have their own inside its tags, which is read, too.
    (
        r"q[wv]",
        (
            (r"qwen-?1\.5", _facts(32 * K, tools=False, dialect="qwen")),
            (r"qwen(-vl)?(:|-(1[._]8|7|14|72)b)", _facts(8192, tools=False, dialect="qwen")),
            (r"qwen-?2-|qwen-?2:", _facts(32 * K, 8192)),
            (r"qwen.*(vl|omni)|qvq", _facts(32 * K, 8192, images=True, rule="qwen")),
            (r"qwen-?3.*coder|qwen-?3\.5", _facts(256 * K, 32 * K, dialect="hermes")),
            (r"qwen-?3.*(2507|next)", _facts(256 * K, 32 * K, dialect="hermes")),
            (r"qwen-(plus|turbo|flash|long)", _facts(128 * K, 8192)),
            (r"qwen-?(2\.5|3)|qwq", _facts(32 * K, 8192, dialect="hermes")),
            (r"qwen", _facts(32 * K, 8192)),
        ),
    ),
    # Zhipu. From 4.5 on calls stand in the tags of Hermes, in a form of their own that is read there.
    (
        r"glm|zhipu",
        (
            (r"chatglm3", _facts(8192, tools=False, dialect="glm3")),
            (r"chatglm", _facts(8192, tools=False)),
            (r"glm-?4v", _facts(8192, 1024, images=True, tools=False)),
            (r"glm-?4\.[15]v", _facts(64 * K, 16 * K, images=True, rule="qwen")),
            (r"glm-?4-long", _facts(1024 * K, 4096)),
            (r"glm-?4\.5", _facts(128 * K, 96 * K, dialect="hermes")),
            (r"glm-?(4\.[6-9]|[5-9])", _facts(200_000, 128 * K, dialect="hermes")),
            (r"glm-?4|zhipu-api", _facts(128_000, 4096)),
        ),
    ),
    # Meta.
    (
        r"llama",
        (
            (r"llama-?v?4", _facts(128 * K, images=True)),
            (r"llama-?v?3[.p-]?2.*vision", _facts(128 * K, images=True)),
            (r"llama-?v?3[.p-]?[1-3](?!\d*b)", _facts(128 * K)),
            (r"llama-?v?3", _facts(8192, tools=False)),
            (r"code-?llama", _facts(16 * K, tools=False)),
            (r"llama", _facts(4096, tools=False)),
        ),
    ),
    # Mistral. Its own endpoint refuses `stream_options` and sends usage unasked; ids of calls have nine characters.
    (
        r"tral",
        (
            (r"mistral-7b.*v0\.1", _facts(8192, tools=False, usage=False, ids=9)),
            (r"mixtral-8x22b", _facts(64 * K, usage=False, ids=9)),
            (r"pixtral|mistral-(small|medium|large)", _facts(128 * K, images=True, usage=False, ids=9)),
            (r"magistral", _facts(40 * K, usage=False, ids=9)),
            (r"codestral|devstral|ministral|open-mistral-nemo", _facts(128 * K, usage=False, ids=9)),
            (r"mi[sx]tral|open-mi[sx]tral", _facts(32 * K, usage=False, ids=9)),
        ),
    ),
    # Anthropic and Google behind their compatible endpoints. Gemini 3 refuses calls without what it signed of them.
    (
        r"claude|gemini",
        (
            (r"claude-(opus|sonnet)-4[-.][6-9]", _facts(1_000_000, 128_000, images=True, rule="anthropic")),
            (
                r"claude-opus-4[-.]?[01]|claude-opus-4(?![-.]\d\b)",
                _facts(200_000, 32_000, images=True, rule="anthropic"),
            ),
            (r"claude-3-(opus|sonnet|haiku)", _facts(200_000, 4096, images=True, rule="anthropic")),
            (r"claude-3[-.]5", _facts(200_000, 8192, images=True, rule="anthropic")),
            (r"claude-(2|instant)", _facts(100_000, 4096, tools=False)),
            (r"claude", _facts(200_000, 64_000, images=True, rule="anthropic")),
            (r"gemini-1\.5-pro", _facts(2_097_152, 8192, images=True, rule="gemini")),
            (r"gemini-(1\.5|2\.0)", _facts(1_048_576, 8192, images=True, rule="gemini")),
            (r"gemini-(1\.0-)?pro(?![\w.])", _facts(30_720, 2048)),
            (r"gemini", _facts(1_048_576, 65_536, images=True, rule="gemini", signed=True)),
        ),
    ),
    # Small open models.
    (
        r"phi|gemma",
        (
            (r"phi-?4-mini", _facts(128 * K)),
            (r"phi-?4-multimodal", _facts(128 * K, images=True, tools=False, rule="phi")),
            (r"phi-?4", _facts(16 * K, tools=False)),
            (r"phi-?3\.5-vision|phi-?3-vision", _facts(128 * K, images=True, tools=False)),
            (r"phi-?3\.5", _facts(128 * K, tools=False)),
            (r"phi-?3", _facts(4096, tools=False)),
            (r"phi", _facts(2048, tools=False)),
            (r"gemma-?3n", _facts(32 * K, tools=False)),
            (r"gemma-?3(-|:)(270m|1b)", _facts(32 * K, tools=False)),
            (r"gemma-?[3-9]", _facts(128 * K, tools=False, images=True)),
            (r"(code)?gemma", _facts(8192, tools=False)),
        ),
    ),
    # Yi, Baichuan, Moonshot. Kimi's thinking models want the thinking of earlier tool calls back; ids of K2's calls
    # hold the names of tools, and its template wants them whole.
    (
        r"yi|baichuan|kimi|moonshot|grok",
        (
            (r"yi-large-fc", _facts(32 * K)),
            (r"yi-(large|medium|spark|lightning)", _facts(16 * K, tools=False)),
            (r"yi-vision|yi-vl", _facts(4096, images=True, tools=False, rule="yi")),
            (r"yi(-1\.5)?(-coder)?[-:]\d", _facts(4096, tools=False)),
            (r"baichuan-?[34]", _facts(32 * K)),
            (r"baichuan", _facts(4096, tools=False)),
            (r"kimi-(latest|vl)", _facts(128 * K, images=True)),
            (r"kimi.*thinking|kimi-k2\.\d|kimi-k[3-9]", _facts(256 * K, thinks=True, images=True, ids=0)),
            (r"kimi-k2-0711", _facts(128 * K, ids=0)),
            (r"kimi-k2", _facts(256 * K, ids=0)),
            (r"moonshot-v1.*vision", _facts(8192, images=True)),
            (r"kimi|moonshot", _facts(8192)),
            (r"grok-([4-9]|code)", _facts(256 * K, images=True)),
            (r"grok", _facts(128 * K)),
        ),
    ),
)

# US dollars for a million tokens of requests and of replies: list prices of OpenAI (platform.openai.com/docs/pricing)
# and Anthropic (platform.claude.com/docs/en/about-claude/pricing) as reported from March to October 2026. Only whole
# names stand here whose one price holds for every request, at their vendor's own endpoint; whoever pays others, by the
# length of the request, or for weights that anybody serves, has to say so in the settings.
_PRICES: tuple[tuple[str, float, float], ...] = (
    (r"gpt-5(\.1)?|gpt-5(\.1)?-chat-latest", 1.25, 10),
    (r"gpt-5-mini", 0.25, 2),
    (r"gpt-5-nano", 0.05, 0.4),
    (r"gpt-5-pro", 15, 120),
    (r"gpt-4\.1", 2, 8),
    (r"gpt-4\.1-mini", 0.4, 1.6),
    (r"gpt-4\.1-nano", 0.1, 0.4),
    (r"gpt-4o-2024-05-13", 5, 15),
    (r"gpt-4o", 2.5, 10),
    (r"gpt-4o-mini", 0.15, 0.6),
    (r"gpt-4-turbo", 10, 30),
    (r"gpt-4|gpt-4-0613", 30, 60),
    (r"gpt-3\.5-turbo|gpt-3\.5-turbo-0125", 0.5, 1.5),
    (r"o1", 15, 60),
    (r"o3", 2, 8),
    (r"o3-mini|o4-mini", 1.1, 4.4),
    (r"claude-opus-4-[567]", 5, 25),
    (r"claude-opus-4(-[01])?", 15, 75),
    (r"claude-sonnet-4(-[05])?|claude-3-[57]-sonnet", 3, 15),
    (r"claude-haiku-4-5", 1, 5),
    (r"claude-3-5-haiku", 0.8, 4),
    (r"claude-3-opus", 15, 75),
    (r"claude-3-haiku", 0.25, 1.25),
)
_DATED = r"(-20\d\d-\d\d-\d\d|-20\d{6}|-latest)?"
_PRICED = "gpt|o[0-9]|claude"

_LONGEST_NAME = 256
"""Characters of a name that are looked at: clients may send any, and patterns take long over long ones."""

_WINDOW_IN_NAME = re.compile(r"[-_](\d{1,4})([km])(?![a-z0-9])")


def profile_for(name: str, **overrides: Any) -> ModelProfile:
    """Return what is known of the model's family, with the overrides in place.

    Upper and lower case, a vendor's prefix (`Qwen/`, `models/`) and a tag (`:7b`) do not matter. A window
    written in the name (`chatglm3-6b-32k`) counts more than the family's. An unknown name gets the defaults
    of `ModelProfile`.

    Args:
        name: The model's name as its endpoint knows it.
        overrides: Fields of `ModelProfile`; None leaves the fact as it is.

    Raises:
        ConfigError: If an override is no field of a profile or has a wrong value.
    """
    short = name.lower().rsplit("/", 1)[-1][:_LONGEST_NAME]
    fields = msgspec.structs.asdict(_family(short))
    fields["prices"] = _prices(short)
    if stated := _WINDOW_IN_NAME.search(short):
        fields["window"] = int(stated[1]) * (K if stated[2] == "k" else 1_000_000)
    if unknown := sorted(overrides.keys() - fields.keys()):
        raise ConfigError(f"profile of {name!r}: there is no field {unknown[0]!r}; the fields are {', '.join(fields)}")
    fields.update((field, value) for field, value in overrides.items() if value is not None)
    try:
        profile = msgspec.convert(fields, ModelProfile)
    except msgspec.ValidationError as error:
        raise ConfigError(f"profile of {name!r}: {error}") from None
    if profile.prices is not None and min(profile.prices.input, profile.prices.output) < 0:
        raise ConfigError(f"profile of {name!r}: `prices` are {profile.prices}; no price is below 0")
    if profile.window <= 0:
        raise ConfigError(f"profile of {name!r}: `window` is {profile.window}; it counts tokens and is above 0")
    return profile


def _family(name: str) -> ModelProfile:
    # Patterns are compiled when a name of their vendor comes: all together they take 10 ms.
    for vendor, rows in _FAMILIES:
        for pattern, profile in rows if re.search(vendor, name) else ():
            # A family's name begins where letters and digits do not run on to its left: `us.anthropic.claude-3-opus`.
            if re.search(rf"(?<![a-z0-9])(?:{pattern})", name):
                return profile
    return ModelProfile()


def _prices(name: str) -> Prices | None:
    for pattern, *amounts in _PRICES if re.match(_PRICED, name) else ():
        if re.fullmatch(f"(?:{pattern}){_DATED}", name):
            return Prices(*amounts)
    return None
