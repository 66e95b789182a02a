"""The fold of a log: what a thread (`thread.py`), its agents (`agent.py`) and their open runs (`run.py`) have come to.

It is filled from events and by nothing else, decides nothing and stores nothing.
"""
