"""Conversations -> token ids -> text, with the model's own tokenizer and template."""
