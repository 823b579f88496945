"""Where blocks that are not stored come from: several sources, and who is asked for what, when."""
