"""`python -m policies.replay.reader`: one of the processes of policies/replay/parallel.py.

A module of its own, so that what is pickled there is never of `__main__`.
"""

from policies.replay.parallel import answer

if __name__ == "__main__":
    answer()
