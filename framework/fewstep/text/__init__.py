"""Text on its way to tokens: files, documents, tokenizers, shards of what was tokenised. Nothing here loads torch."""
