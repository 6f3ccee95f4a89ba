"""Clips, degradations and datasets."""
