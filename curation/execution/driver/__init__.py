"""The loop of a pass: which worker does what, and what happens when one dies."""
