"""Simulated days for the budget controller: traffic, controllers to compare with, figures and a plot."""
