"""Adapters: low-rank changes of a model, read, signed, stored and checked."""
