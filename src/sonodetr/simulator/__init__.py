"""Simulated ultrasound video of instruments in tissue, with exact labels in mm.

The probe's frame: x across the picture, y out of it (elevation), z into the tissue, all in mm from
the middle of the probe's face; angles in degrees unless a name says `_rad`. Everything random is
drawn with NumPy from (seed, clip), so that a clip is the same whoever makes it; the pictures are
formed in torch, on any device.
"""
