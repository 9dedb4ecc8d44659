"""Model workers: they hold the stages that want a GPU, and measure what decode workers send them."""
