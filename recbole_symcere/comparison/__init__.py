"""Compares models: an equal search on validation for each, runs with several seeds, one test of each run, tables."""
