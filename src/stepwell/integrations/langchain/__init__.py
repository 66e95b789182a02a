"""LangChain agents with Stepwell: streamed as Langchain-Chatchat's handler did, or recorded into a log.

It runs no agent of its own. The extra `langchain` installs what it needs.
"""

try:
    from stepwell.integrations.langchain.handler import CustomAsyncIteratorCallbackHandler, Status, dumps
    from stepwell.integrations.langchain.recorder import StepwellRecorder
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "langchain_core":
        raise
    raise ModuleNotFoundError(
        'LangChain needs an extra; pip install "stepwell[langchain]"', name=error.name, path=error.path
    ) from error

__all__ = ["CustomAsyncIteratorCallbackHandler", "Status", "StepwellRecorder", "dumps"]
