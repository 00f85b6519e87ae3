"""Bytes: objects named by their digest, trees of them, and key-values that are looked up online."""
