"""Text as data: corpora, tokenizers, and windows of tokens as examples."""
