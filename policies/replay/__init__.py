"""Offline replay."""
