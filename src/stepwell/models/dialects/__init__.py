"""Tool calls as text, for models that have none of their own: one file a dialect, `base.py` is their port.

A dialect renders a request as one text and takes the reply apart as it streams. It calls no model and no tool.
"""
