"""Training methods as pure functions: divergences, objectives of logits, attacks, and the catalogue METHODS."""
