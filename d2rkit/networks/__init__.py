"""Networks and their files: architectures, input normalisation, checkpoints of ours and of the field, export."""
