"""Evaluation of a served candidate: cases, answers, figures, statistics, the gate and its report."""
