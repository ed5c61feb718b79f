"""Handwritten digits, served: see app.py."""
