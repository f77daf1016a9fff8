"""`make routing-results`: what routing is worth on public data, measured again and written into docs/routing-results.md."""
