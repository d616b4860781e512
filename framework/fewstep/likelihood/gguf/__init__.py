"""Language models in GGUF files, the format of llama.cpp, as references of metrics (extra `hf`).

`header` reads what a file says of itself within bounds, `llama` makes the network, `tokenizer` the tokenizer. Nothing
in a file is run. No file is a component.
"""
