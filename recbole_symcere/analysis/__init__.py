"""What a trained model learned: geometry, semantic anchoring, neighbours, explanations, and a report of them."""
