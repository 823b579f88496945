"""Bytes from anywhere, and how what strangers wrote is read."""
