"""Submissions: found, and read without running them."""
