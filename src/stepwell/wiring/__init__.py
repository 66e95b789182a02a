"""Puts the parts together: the only package that names adapters, and the only one that imports inside functions.

An adapter that is not used is not imported. It decides nothing about runs.
"""
