"""`make routing-results`: routing on public data, measured again and written into docs/routing-results.md."""
