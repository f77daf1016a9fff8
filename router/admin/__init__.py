"""`/admin`: reading and changing what a gateway does while it serves, by its own key and with its own audit log."""
