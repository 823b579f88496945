"""Prefill and decode of one loaded model, on token ids only."""
