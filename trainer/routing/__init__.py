"""Routing measured on labelled outcomes: what learners score on rows that they never saw, in published figures."""
