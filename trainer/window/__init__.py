"""What a commit window costs and what it sees, measured on a served student: `python -m trainer.window`."""
