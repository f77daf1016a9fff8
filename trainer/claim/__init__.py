"""`make claim`: the product's promise, measured on one machine with the product's own commands.

data.py       BANKING77 -> labels for the teacher, unlabelled traffic, sealed evaluation, tuning labels, test
servers.py    the teacher's API and the gateway
client.py     plain OpenAI requests, resumable
story.py      the steps in order: teacher, traffic, train run, promote, tune, test
baselines.py  what the result is compared with
results.py    the figures, with paired intervals
page.py       the page *The claim, measured*
"""
