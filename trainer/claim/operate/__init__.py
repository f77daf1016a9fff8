"""`make guide`: an operator's first change of a threshold, played with the models of a finished claim.

setup.py     what a claim folder has; the gateway's configuration
session.py   the story: traffic, feedback, replay, a new policy version, traffic
choice.py    which threshold of a sweep, and what may be said of it
figures.py   bill, share and quality of a part of the traffic, by the log and by the true labels
page.py      what is printed
"""
