"""How fast this machine and a running server are, told as figures and as ratios from one run: `eyespot bench`."""
