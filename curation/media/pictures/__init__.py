"""From a decoded picture to a frame: deinterlaced, at one size, tone-mapped, in RGB, upright.

`orientation` reads the display matrix, `deinterlace` and `tonemap` change pixels where a picture calls for
it, `render` puts the steps together.
"""
