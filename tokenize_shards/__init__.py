"""From pixels and captions to ids, and from ids to training shards."""
