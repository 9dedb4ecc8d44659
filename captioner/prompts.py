"""What the captioner is asked."""

IMAGE = (
    "Describe this image in detail: the subjects and what they do, the setting, colors, light, style and "
    "composition. Write one paragraph of plain text. Describe only what can be seen."
)

CLIP = (
    "These are {num_frames} frames of a video in the order of time, over {seconds:.1f} seconds. Describe the "
    "video in detail: the subjects and their actions, how they move, the setting, the camera's movement, "
    "light and style. Write one paragraph of plain text. Describe only what can be seen."
)


def prompt_for(kind: str, num_frames: int, seconds: float, image_prompt: str, clip_prompt: str) -> str:
    """The question about one sample."""
    if kind == "image":
        return image_prompt
    return clip_prompt.format(num_frames=num_frames, seconds=seconds)
