"""CLIP for the stages that embed pictures. No stage itself.

`squares` makes the pictures that CLIP sees, where they are decoded: by Pillow, without torch and weights.
`tower` loads CLIP and embeds them, many at a time, where the GPU is.
"""
