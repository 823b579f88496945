"""Which experts stay on the GPU when not all of them fit, and what that costs a token."""
