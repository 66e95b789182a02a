"""Readers of conversations that other programs stored. They read files and write nothing: `runs/imports.py` stores."""
