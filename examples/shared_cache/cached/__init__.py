"""Digits behind a cache that all replicas share: see app.py."""
