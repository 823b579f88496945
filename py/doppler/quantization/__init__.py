"""Block types of weights: their sizes, blocks -> floats, floats -> blocks."""
