"""What the learned policies decide with: corpora, features and fits of `long_reasoning` and of calibrators."""
