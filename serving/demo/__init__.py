"""`locum demo`: a docs assistant over the standard library's docstrings, on a real student and a real teacher."""
