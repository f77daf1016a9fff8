"""`locum tune`: the threshold of the cascade from labelled requests."""
