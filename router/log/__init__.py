"""`locum log`: statistics, SQL, verification, export and compaction of a traffic folder."""
