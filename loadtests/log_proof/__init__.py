"""The traffic log, proven on whole processes: gateways are killed under load, its disk fills up, its bytes are damaged.

`python -m loadtests.log_proof` runs it (`__main__.py`); what is claimed is judged from outside, by `locum log` and by a
reader of its own (`ledger.py`).
"""
