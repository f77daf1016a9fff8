"""What clients speak: one module an endpoint."""
