"""The live policy document: one versioned JSON document that every worker and replica follows while it serves."""
