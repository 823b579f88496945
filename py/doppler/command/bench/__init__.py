"""`doppler bench`: speed and memory of a model in the real page, as JSON, tables and a plot."""
