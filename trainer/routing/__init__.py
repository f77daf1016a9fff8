"""Routing measured on labelled outcomes: who learns what, scored on rows that it never saw, in figures others report."""
