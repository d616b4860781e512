"""Exported models: folders that sample without the run and the data that they came from."""
