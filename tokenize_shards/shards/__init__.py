"""Files of training samples: writing, reading, checking and exporting them."""
