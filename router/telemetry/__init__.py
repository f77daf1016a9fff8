"""Traces and metrics as OpenTelemetry, by the semantic conventions for generative AI; off unless configured."""
