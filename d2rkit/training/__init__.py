"""From a recipe to trained weights: the step, the loop around it, and what a method keeps beside the pair."""
