"""What a table will cost, and whether every cell of it works, before it is run."""
