"""Handwritten digits, trained and scored by several processes together: see app.py."""
