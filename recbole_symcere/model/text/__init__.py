"""The language model: from the tokens of a review to its vector (section 3.1.2)."""
