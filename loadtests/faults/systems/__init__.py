"""The gateways, one a module: how each is installed, configured and started."""
