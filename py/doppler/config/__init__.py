"""What a model is, as data: its shapes, its layers, its ropes."""
