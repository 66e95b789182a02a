"""Settings of the faces of the server: the sections `[chatchat]`, `[openai]` and `[mcp_server]`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stepwell.config.base import LONGEST, MOST_DAYS, Section, Table


class ChatchatSettings(Section):
    """The routes of old Langchain-Chatchat clients."""

    model: str = ""
    """Default of `model_name` (the first of `LLM_MODELS` there); empty: the default model."""
    agent_model: str = ""
    """Serves the model calls made inside tools (`Agent_MODEL` there); empty: the request's model."""
    temperature: float = Field(default=0.7, ge=0, le=1)
    """Default of `temperature`."""
    history_rounds: int = Field(default=3, ge=0)
    """Rounds of `history` that the model sees (`HISTORY_LEN` there, which kept twice as many)."""
    dialects: Annotated[dict[str, str], Table] = {}
    """Dialect by model name, or `native`; without one `glm3` for the names of ChatGLM3, `react` for all others."""
    max_steps: int = Field(default=15, ge=1)
    """Model calls of one request."""
    keep_days: int = Field(default=30, ge=1, le=MOST_DAYS)
    """Days for which the threads of these requests are kept; conversations are kept until somebody deletes them."""
    statuses: Literal["0.3.1", "master"] = "0.3.1"
    """Numbers of `status` for 0.3 clients: those of 0.3.0 and 0.3.1, or of that service's last state (`master`)."""
    language: Literal["en", "zh"] = "zh"
    """Language of the prompt templates and notices."""


class OpenAISettings(Section):
    """OpenAI's protocols under `/v1`."""

    keep_days: int = Field(default=30, ge=1, le=MOST_DAYS)
    """Days for which the threads that these requests make are kept."""


class McpServerSettings(Section):
    """The MCP server under `/mcp`, which offers agents as tools and threads as resources."""

    enabled: bool = False
    """Off until switched on."""
    sessions: int = Field(default=100, ge=1)
    """Sessions at once; one more is refused."""
    idle: float = Field(default=1800.0, gt=0, le=LONGEST)
    """Seconds after which a session that nobody uses is closed."""
    keep_days: int = Field(default=30, ge=1, le=MOST_DAYS)
    """Days for which the threads that its tools make are kept."""
