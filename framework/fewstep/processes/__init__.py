"""Processes: how data become noise, and the way back; each owns a schedule.

Every file is a component, but for the shared parts: `base`, `masks`.
"""
