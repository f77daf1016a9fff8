"""The Grafana boards as code: `python -m deploy.dashboards` writes deploy/grafana/*.json."""
