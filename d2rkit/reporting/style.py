"""The colours of every picture: Okabe & Ito's, told apart with any colour vision, and greys. Wherever one means
something, a marker, dash or label says the same a second time."""

BLACK, INK, GREY, GRID, PAPER = "#000000", "#222222", "#6B6B6B", "#DDDDDD", "#FFFFFF"
BLUE, ORANGE, GREEN, RED, SKY, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7"
OWN_COLOURS = ("#882255", "#999933", "#332288")  # of Tol's muted scheme, for registered methods
