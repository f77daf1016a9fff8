"""`POST /v1/embeddings`: forwarded to a backend, or computed by a local model."""
