"""Settings: what they are, their defaults, and where they come from.

`settings.py` puts the sections together and reads them; each other module holds the sections of one subject, and
`base.py` what they share. Nothing is built here.
"""

from stepwell.config.agents import AgentSettings, HelperSettings
from stepwell.config.base import is_loopback
from stepwell.config.faces import McpServerSettings
from stepwell.config.limits import ThreadLimitSettings
from stepwell.config.mcp import McpSettings
from stepwell.config.models import OFFLINE, ModelSettings
from stepwell.config.settings import Config, load, settings_file, spoken_language, unknown_variables

__all__ = [
    "OFFLINE",
    "AgentSettings",
    "Config",
    "HelperSettings",
    "McpServerSettings",
    "McpSettings",
    "ModelSettings",
    "ThreadLimitSettings",
    "is_loopback",
    "load",
    "settings_file",
    "spoken_language",
    "unknown_variables",
]
