"""Learned scores: features of a text and of named measurements, models over them, and the artefact that holds both.

Whoever fits a model computes its features with the code that computes them when requests are routed
(`policies/scoring/text.py`), so the two cannot drift apart. Serving needs no numpy.
"""
