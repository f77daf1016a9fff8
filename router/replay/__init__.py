"""Replay for people: `locum replay`, and the process behind `/admin/replay`."""
