"""What a log does not tell of the times at which things were met, and what a replay may take it to have been.

Which of it brings the stored events about is looked for in `replay.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

Notice = Literal["late", "unseen", "meanwhile"]
"""When an input that the log has is met, if not at once: when nothing else can be done; or at once by those that look
at the log anyhow, and by those that wait for one when it is their turn; or when somebody waits for the store next."""
Doubt = Literal["early", "refused"]
"""What else may have been at an event: an agent that begins beside others looked at the log before that, and not as
late as may be; or a call was refused for its key's sake, and the process died before it told."""
Times = Mapping[int, Notice | Doubt]
AT_ONCE: Times = MappingProxyType({})
