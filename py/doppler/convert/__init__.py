"""Files of a model -> what would be stored of it -> a stored model."""
