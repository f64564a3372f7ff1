"""From weights to per-image correctness flags: attacks, AutoAttack, signs of gradient masking."""
