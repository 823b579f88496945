"""A stored model: manifest, shards of one byte space, what verifies and mends them."""
