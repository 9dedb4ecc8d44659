"""What one worker process does with a unit: decode, measure, commit. Knows no Ray."""
