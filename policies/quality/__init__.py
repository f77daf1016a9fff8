"""How good the answers are, and whether that holds: judgements, grades, estimates, the regression set, drift."""
