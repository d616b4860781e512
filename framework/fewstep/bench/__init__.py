"""Suites: train, sample, score, compare and report. All measured rows are stored.

The files lie in the subfolders.
"""
