"""What runs in the page only, over the JavaScript of web/runtime: bytes, storage, models."""
