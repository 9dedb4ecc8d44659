"""From pixels to vision tokens and back."""
