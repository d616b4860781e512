"""Tasks on a cluster: a Dask scheduler and its workers, on this machine or on many.

No file is a component. Only `settings` is imported without `--cluster`, and it loads no Dask.
"""
