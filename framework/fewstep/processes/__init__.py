"""Processes: noising of data, and the steps back; each owns a schedule.

Every file is a component, but for the shared parts: `base`, `masks`.
"""
