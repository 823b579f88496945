"""A model's config -> the list of dispatches, for a batch and for a token."""
