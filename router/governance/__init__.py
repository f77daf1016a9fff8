"""What governors and shadows need of the gateway: quotes, lots, what was spent and voted, over workers and replicas."""
