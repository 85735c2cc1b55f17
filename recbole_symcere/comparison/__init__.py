"""Side-by-side comparison of models: the same tuning budget on validation, several seeds, one look at test, tables."""
