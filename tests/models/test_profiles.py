"""Facts about families of models: which name belongs to which family."""

import time

import pytest

from stepwell.errors import ConfigError
from stepwell.models.base import ModelProfile
from stepwell.models.profiles import profile_for
from stepwell.specs import Prices

K = 1024
NATIVE, TEXT = True, False

FACTS = [
    ("gpt-4o", 128_000, NATIVE),
    ("gpt-4o-mini-2024-07-18", 128_000, NATIVE),
    ("gpt-4.1-nano", 1_047_576, NATIVE),
    ("gpt-4-turbo", 128_000, NATIVE),
    ("gpt-4", 8192, NATIVE),
    ("gpt-3.5-turbo", 16_385, NATIVE),
    ("openai/gpt-5-mini", 400_000, NATIVE),
    ("gpt-5-chat-latest", 128_000, NATIVE),
    ("gpt-oss:20b", 128 * K, NATIVE),
    ("o1", 200_000, NATIVE),
    ("o1-mini", 128_000, TEXT),
    ("o3-mini", 200_000, NATIVE),
    ("o4-mini", 200_000, NATIVE),
    ("deepseek-chat", 128 * K, NATIVE),
    ("deepseek-reasoner", 128 * K, NATIVE),
    ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", 32 * K, TEXT),
    ("Qwen-7B-Chat", 8192, TEXT),
    ("qwen-14b-chat-int4", 8192, TEXT),
    ("qwen:7b", 8192, TEXT),
    ("Qwen1.5-72B-Chat", 32 * K, TEXT),
    ("Qwen/Qwen2.5-7B-Instruct", 32 * K, NATIVE),
    ("qwen3:8b", 32 * K, NATIVE),
    ("qwen-plus", 128 * K, NATIVE),
    ("chatglm3-6b", 8192, TEXT),
    ("THUDM/ChatGLM3-6B", 8192, TEXT),
    ("glm-4", 128_000, NATIVE),
    ("glm-4-plus", 128_000, NATIVE),
    ("zhipu-api", 128_000, NATIVE),
    ("glm-4.6", 200_000, NATIVE),
    ("llama-2-7b-chat", 4096, TEXT),
    ("llama3:8b", 8192, TEXT),
    ("meta-llama/Llama-3.1-8B-Instruct", 128 * K, NATIVE),
    ("llama3.3", 128 * K, NATIVE),
    ("accounts/fireworks/models/llama-v3p1-70b-instruct", 128 * K, NATIVE),
    ("Mistral-7B-Instruct-v0.2", 32 * K, NATIVE),
    ("mistral-large-latest", 128 * K, NATIVE),
    ("mixtral-8x22b-instruct", 64 * K, NATIVE),
    ("claude-3-5-sonnet-20241022", 200_000, NATIVE),
    ("us.anthropic.claude-3-opus-20240229-v1:0", 200_000, NATIVE),
    ("claude-sonnet-4-5", 200_000, NATIVE),
    ("models/gemini-2.5-flash", 1_048_576, NATIVE),
    ("gemini-1.5-pro-002", 2_097_152, NATIVE),
    ("phi3:mini", 4096, TEXT),
    ("phi-4", 16 * K, TEXT),
    ("gemma2:9b", 8192, TEXT),
    ("gemma-3-27b-it", 128 * K, TEXT),
    ("yi-34b-chat", 4096, TEXT),
    ("Yi-1.5-9B-Chat", 4096, TEXT),
    ("Baichuan2-13B-Chat", 4096, TEXT),
    ("moonshot-v1-8k", 8192, NATIVE),
    ("kimi-k2-0905-preview", 256 * K, NATIVE),
    ("kimi-k2-thinking", 256 * K, NATIVE),
]


@pytest.mark.parametrize(("name", "window", "native"), FACTS)
def test_a_name_belongs_to_its_family(name: str, window: int, native: bool) -> None:
    profile = profile_for(name)
    assert (profile.window, profile.native_tools) == (window, native)
    assert profile_for(name.upper()) == profile
    assert profile_for(f"vendor/{name}") == profile


@pytest.mark.parametrize(
    ("name", "dialect"),
    [
        ("Qwen-7B-Chat", "qwen"),
        ("qwen:7b", "qwen"),
        ("Qwen1.5-72B-Chat", "qwen"),
        ("Qwen2-7B-Instruct", "react"),
        ("Qwen/Qwen2.5-7B-Instruct", "hermes"),
        ("qwen3:8b", "hermes"),
        ("Qwen3-235B-A22B-Instruct-2507", "hermes"),
        ("qwen3-coder-30b", "hermes"),
        ("Qwen/Qwen3.5-27B", "hermes"),
        ("zai-org/GLM-4.5-Air", "hermes"),
        ("glm-4.7", "hermes"),
        ("glm-4-9b-chat", "react"),
        ("qwen-plus", "react"),
        ("chatglm3-6b-32k", "glm3"),
        ("chatglm2-6b", "react"),
        ("gemma2:9b", "react"),
        ("my-model", "react"),
    ],
)
def test_a_family_has_the_dialect_that_it_was_trained_on(name: str, dialect: str) -> None:
    assert profile_for(name).dialect == dialect


@pytest.mark.parametrize(
    "name", ["", "my-model", "solar-10.7b", "foo1", "ernie-bot-4", "offline", "script-1-20", "a/b/c"]
)
def test_an_unknown_name_gets_the_defaults(name: str) -> None:
    assert profile_for(name) == ModelProfile()


STATED = [
    ("chatglm3-6b-32k", 32 * K),
    ("moonshot-v1-128k", 128 * K),
    ("gpt-4-32k", 32 * K),
    ("Phi-3-mini-128k-instruct", 128 * K),
    ("yi-34b-200k", 200 * K),
    ("Qwen2.5-7B-Instruct-1M", 1_000_000),
    ("unknown-16k", 16 * K),
]


@pytest.mark.parametrize(("name", "window"), STATED)
def test_a_window_in_the_name_counts_more_than_the_familys(name: str, window: int) -> None:
    assert profile_for(name).window == window


def test_thinking_models_of_openai_have_names_of_their_own() -> None:
    for name in ("o1", "o3", "o4-mini", "gpt-5", "gpt-5.1"):
        profile = profile_for(name)
        assert (profile.max_tokens_name, profile.system_role) == ("max_completion_tokens", "developer")
        assert not profile.temperature
    profile = profile_for("gpt-4o")
    assert (profile.max_tokens_name, profile.system_role) == ("max_tokens", "system")


def test_thinking_goes_back_only_to_the_families_that_want_it() -> None:
    assert profile_for("deepseek-reasoner").thinking_back
    assert profile_for("kimi-k2-thinking").thinking_back
    assert not profile_for("deepseek-chat").thinking_back


def test_usage_is_not_asked_for_where_the_question_is_refused() -> None:
    assert not profile_for("mistral-small-latest").usage_in_stream
    assert profile_for("qwen-max").usage_in_stream


def test_a_name_of_megabytes_takes_no_longer_than_another() -> None:
    began = time.process_time()
    assert profile_for("qwen-" * 200_000) == profile_for("qwen-x")
    assert time.process_time() - began < 0.5


def test_ids_of_calls_have_the_form_of_the_family() -> None:
    known = {"gpt-4o": 40, "devstral-small": 9, "mixtral-8x7b": 9, "kimi-k2-0905": 0, "any": 40}
    assert {name: profile_for(name).call_ids for name in known} == known


def test_families_that_see() -> None:
    assert all(profile_for(name).images for name in ("gpt-4o", "qwen2.5-vl-7b", "claude-opus-4-1", "gemini-2.0-flash"))
    assert not any(profile_for(name).images for name in ("gpt-4", "qwen2.5:7b", "deepseek-chat", "chatglm3-6b"))


TOKENIZERS = [
    ("gpt-4o", "o200k", "openai_tiles"),
    ("chatgpt-4o-latest", "o200k", "openai_tiles"),
    ("gpt-4o-mini-2024-07-18", "o200k", "openai_tiles_mini"),
    ("gpt-4.1", "o200k", "openai_tiles"),
    ("gpt-4.1-mini", "o200k", "openai_patches"),
    ("gpt-4.5-preview", "o200k", "openai_tiles"),
    ("gpt-4-turbo-2024-04-09", "cl100k", "openai_tiles"),
    ("gpt-4", "cl100k", ""),
    ("gpt-4-0613", "cl100k", ""),
    ("ft:gpt-4-0613:acme::1", "cl100k", ""),
    ("gpt-4-32k", "cl100k", ""),
    ("gpt-3.5-turbo", "cl100k", ""),
    ("openai/gpt-5-mini", "o200k", "openai_patches"),
    ("gpt-5.2", "o200k", "openai_patches"),
    ("gpt-5.4-nano", "o200k", "openai_patches"),
    ("gpt-5.4", "o200k", "openai_patches_large"),
    ("gpt-5.10", "o200k", "openai_patches_large"),
    ("gpt-6", "", "openai_patches_large"),
    ("gpt-oss:20b", "o200k", ""),
    ("o1-mini", "o200k", ""),
    ("o3", "o200k", "openai_patches"),
    ("claude-sonnet-4-5", "", "anthropic"),
    ("models/gemini-2.5-flash", "", "gemini"),
    ("qwen2.5-vl-7b", "", "qwen"),
    ("glm-4.5v", "", "qwen"),
    ("yi-vl-6b", "", "yi"),
    ("phi-4-multimodal-instruct", "", "phi"),
    ("pixtral-12b", "", ""),
    ("qwen2.5:7b", "", ""),
]


@pytest.mark.parametrize(("name", "tokenizer", "rule"), TOKENIZERS)
def test_a_family_has_its_tokenizer_and_its_rule_for_images(name: str, tokenizer: str, rule: str) -> None:
    profile = profile_for(name)
    assert (profile.tokenizer, profile.image_tokens) == (tokenizer, rule)
    assert profile.images or not rule


@pytest.mark.parametrize("name", ["gpt4all-13b", "gpt-4-x-vicuna", "marco-o1", "skywork-o1-open-llama-3.1-8b"])
def test_a_name_that_others_use_too_tells_no_tokenizer(name: str) -> None:
    assert profile_for(name).tokenizer == ""


def test_overrides_stand_and_none_leaves_the_fact() -> None:
    profile = profile_for("gpt-4o", window=1000, native_tools=None, dialect="qwen")
    assert (profile.window, profile.native_tools, profile.dialect) == (1000, True, "qwen")
    assert profile_for("chatglm3-6b-32k", window=5).window == 5


def test_a_wrong_override_is_named() -> None:
    with pytest.raises(ConfigError, match=r"'m': there is no field 'windows'; the fields are window, "):
        profile_for("m", windows=5)
    with pytest.raises(ConfigError, match=r"'m': Expected `int`, got `str` - at `\$.window`"):
        profile_for("m", window="big")
    with pytest.raises(ConfigError, match=r"'m': Invalid enum value 'p50k' - at `\$.tokenizer`"):
        profile_for("m", tokenizer="p50k")
    with pytest.raises(ConfigError, match=r"'m': `window` is 0"):
        profile_for("m", window=0)


PRICES = [
    ("gpt-5", 1.25, 10),
    ("gpt-5-2025-08-07", 1.25, 10),
    ("openai/gpt-5-mini", 0.25, 2),
    ("gpt-4o-2024-05-13", 5, 15),
    ("gpt-4o-2024-11-20", 2.5, 10),
    ("o4-mini", 1.1, 4.4),
    ("claude-opus-4-1-20250805", 15, 75),
    ("claude-opus-4-5", 5, 25),
    ("claude-3-5-sonnet-latest", 3, 15),
]


@pytest.mark.parametrize(("name", "input", "output"), PRICES)
def test_a_whole_name_of_a_vendor_has_its_list_price(name: str, input: float, output: float) -> None:
    assert profile_for(name).prices == Prices(input, output)
    assert profile_for(name.upper()).prices == Prices(input, output)


@pytest.mark.parametrize(
    "name",
    ["", "gpt-5.9", "gpt-5-pro-max", "ft:gpt-4o:acme", "my-gpt-4o", "gpt-oss:20b", "qwen3:8b", "deepseek-chat"],
)
def test_no_price_is_guessed_from_a_part_of_a_name(name: str) -> None:
    assert profile_for(name).prices is None


def test_a_price_that_is_set_counts_and_none_is_below_nothing() -> None:
    assert profile_for("gpt-4o", prices=Prices(1, 2)).prices == Prices(1, 2)
    assert profile_for("mine", prices=Prices(0, 0)).prices == Prices(0, 0)
    with pytest.raises(ConfigError, match="no price is below 0"):
        profile_for("mine", prices=Prices(-1, 0))
