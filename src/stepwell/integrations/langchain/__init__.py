"""LangChain agents with Stepwell: streamed as Langchain-Chatchat's handler did, or recorded into a log.

It runs no agent of its own. The extra `langchain` installs what it needs.
"""

from stepwell.integrations.langchain.handler import CustomAsyncIteratorCallbackHandler, Status, dumps
from stepwell.integrations.langchain.recorder import StepwellRecorder

__all__ = ["CustomAsyncIteratorCallbackHandler", "Status", "StepwellRecorder", "dumps"]
