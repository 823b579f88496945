"""A kernel under a person's hands: run on a case or on given arrays, looked at, replaced."""
