"""Suites: train, sample, score, judge and report; what was measured is kept.

Its files lie in the folders below.
"""
