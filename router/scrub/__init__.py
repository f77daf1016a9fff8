"""Takes personal data and secrets out of records before they reach the disk.

`engine.py` finds, `placeholders.py` names, `json_text.py` rewrites a JSON text without breaking it, `records.py` says
where texts lie in a record, and `spool.py` is the traffic log that writes nothing else.
"""
