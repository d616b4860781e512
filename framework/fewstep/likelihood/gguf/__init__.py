"""Language models in GGUF files, the format of llama.cpp, as references of metrics (extra `hf`).

`header` reads what a file says of itself within bounds, `llama` makes the network, `tokenizer` the tokenizer. No file
is a component, and nothing in a file is run.
"""
