"""From settings to run folders: experiments, presets, sweeps here and on Slurm, and how far they are."""
