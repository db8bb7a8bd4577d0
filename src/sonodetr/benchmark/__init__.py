"""How fast a model runs, in whichever runtime, and how fast the machine would let it."""
