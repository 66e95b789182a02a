"""Settings of models: the sections `[models.NAME]`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, model_validator

from stepwell.config.base import LONGEST, Place, Section, Table, is_address

OFFLINE = "offline"
"""Name of the embedded model, always there."""


class ModelSettings(Section):
    """One model that agents can use."""

    kind: Literal["openai", "offline", "scripted", "anthropic", "bedrock", "google", "mistral", "provider"] = "openai"
    """`openai`: any OpenAI-compatible chat-completions endpoint. `offline`: the embedded one. `scripted`: a file.
    Vendors: their own protocol. `provider`: that of the vendor in `model`, such as `groq:llama-3.3-70b-versatile`."""
    script: Place | None = None
    """The file of the kind `scripted`."""
    base_url: str = ""
    """The endpoint up to and including `/v1`."""
    model: str = ""
    """The name sent to the endpoint; empty: the section's own name."""
    api_key: SecretStr = SecretStr("")
    """The endpoint's key; better in `api_key_env`."""
    api_key_env: str = ""
    """Name of the variable that holds the endpoint's key."""
    dialect: str = ""
    """`native`, the name of a dialect such as `react`, or empty: what the model's family is known to do."""
    window: int | None = Field(default=None, ge=256)
    """Context window in tokens; empty: the family's."""
    images: bool | None = None
    """Whether it sees images; empty: the family's."""
    max_output: int | None = Field(default=None, ge=1)
    """Tokens of its longest reply; empty: the family's."""
    price_input: float | None = Field(default=None, ge=0, le=1e9, allow_inf_nan=False)
    """Money for a million tokens of requests; empty: the family's list price, where it is known."""
    price_output: float | None = Field(default=None, ge=0, le=1e9, allow_inf_nan=False)
    """Money for a million tokens of replies; set together with `price_input`."""
    json_mode: bool | None = None
    """Whether the endpoint keeps a reply to a JSON schema (`response_format`); empty: the family's."""
    connect_timeout: float = Field(default=10.0, gt=0, le=LONGEST)
    """Seconds to wait for a connection."""
    stall_timeout: float = Field(default=120.0, gt=0, le=LONGEST)
    """Seconds to wait between two bytes of a reply."""
    attempts: int = Field(default=4, ge=1, le=20)
    """Tries of a call, counted with the first, while no byte of a reply has come."""
    extra: Annotated[dict[str, Any], Table] = {}
    """Further fields of each request's body."""

    @model_validator(mode="after")
    def _complete(self) -> ModelSettings:
        if (self.kind == "openai" or self.base_url) and not is_address(self.base_url):
            raise ValueError("base_url must be the endpoint's address, such as http://127.0.0.1:11434/v1")
        if self.kind == "provider" and not all(self.model.partition(":")):
            raise ValueError("model must begin with its vendor, such as anthropic:claude-opus-5")
        if self.kind == "scripted" and self.script is None:
            raise ValueError("script must name the file that says what this model answers")
        if (self.price_input is None) != (self.price_output is None):
            raise ValueError("price_input and price_output belong together; set both, 0 for what costs nothing")
        return self
