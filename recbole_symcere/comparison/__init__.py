"""The comparison of models: equal search on validation, several seeds, one evaluation on test, and tables."""
