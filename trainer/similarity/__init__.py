"""How alike two requests are: normalised texts, MinHash, n-grams, embeddings with a guard for numerals."""
