"""OpenAI's protocols: chat completions, responses and models under `/v1`, as encoders over the log."""
