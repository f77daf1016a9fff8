"""Faults played against gateways, and judged by the bytes their clients got. `python -m loadtests.faults`."""
