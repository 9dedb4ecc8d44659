"""Files in, frames out. Only `probe`, `decode` and `image` know a decoder."""
