"""The exceptions of Stepwell, one tree.

    StepwellError
    ├── ConfigError         a setting is wrong; names its place and the remedy
    ├── DataInUse           another process works on the data folder
    ├── InputError          a client's request is wrong; names the field
    │   ├── NotFound        no such thing, or it is another owner's
    │   ├── Busy            the thread has an open run
    │   ├── Decided         a question was decided already, or is about something that changed
    │   ├── Expired         a question's time is over
    │   └── KeyReused       an idempotency key came with another body
    ├── StoreError          the store could not do its work
    │   ├── Conflict        someone else appended first
    │   └── StoreFull       no room on the disk
    ├── ToolError           a tool says why it could not do its work; the model is told
    ├── LimitReached        a model call is not made, for it could cost more than is left
    ├── ContextFull         a request cannot be brought under the window
    ├── ReplyMisfit         a model's reply does not fit its form, even after a repair
    ├── RunFailed           a run of the library ended without an answer
    ├── RunWaits            a run of the library waits for people, and nobody was named who answers
    ├── ScriptError         a scripted model was used otherwise than its script says
    └── ReplayDiffers       a replay came to another decision or request

Failures of models and tools inside a run are no exceptions: they are events of its log.
A class's docstring is its default message.
"""

from __future__ import annotations


class StepwellError(Exception):
    """Stepwell could not do what was asked."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message or (type(self).__doc__ or "").split("\n\n")[0].strip())


class ConfigError(StepwellError):
    """A setting is wrong."""


class DataInUse(StepwellError):
    """Another process works on this data folder."""


class InputError(StepwellError):
    """A request is wrong.

    Args:
        message: What is wrong and the remedy.
        field: The path of the field, such as `content` or `images.0.url`.
    """

    def __init__(self, message: str = "", field: str = "") -> None:
        super().__init__(message)
        self.field = field


class NotFound(InputError):
    """There is no such thing here."""


class Busy(InputError):
    """The thread has an open run."""


class Decided(InputError):
    """The question was decided already."""


class Expired(InputError):
    """The question's time is over."""


class KeyReused(InputError):
    """The idempotency key was used with another body; send a new key."""


class StoreError(StepwellError):
    """The store could not do its work."""


class Conflict(StoreError):
    """Someone else appended to the thread first."""


class StoreFull(StoreError):
    """The store has no room left."""


class ToolError(StepwellError):
    """The tool could not do its work."""


class RunFailed(StepwellError):
    """The run ended without an answer.

    Args:
        message: The cause in words.
        cause: The stable word for it, as in `RunEnded`.
    """

    def __init__(self, message: str = "", cause: str = "") -> None:
        super().__init__(message)
        self.cause = cause


class RunWaits(StepwellError):
    """The run waits for people.

    Args:
        message: What it waits for.
        thread: The thread's id.
        run: The run's number.
    """

    def __init__(self, message: str = "", thread: str = "", run: int = 0) -> None:
        super().__init__(message)
        self.thread, self.run = thread, run


class ScriptError(StepwellError):
    """A scripted model was used otherwise than its script says."""


class ReplayDiffers(StepwellError):
    """The replay differs from the log."""


class LimitReached(StepwellError):
    """The call could cost more than is left.

    Args:
        message: What is left, what the call could cost, and whose limit it is, in words.
        name: Which limit, such as `money`.
    """

    def __init__(self, message: str = "", name: str = "money") -> None:
        super().__init__(message)
        self.name = name


class ContextFull(StepwellError):
    """The request cannot be brought under the model's window."""


class ReplyMisfit(StepwellError):
    """The model's reply does not fit the form that was asked for."""
