"""Readers of other people's files: GGUF, safetensors, tokenizers, configurations."""
