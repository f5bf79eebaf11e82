"""Face embeddings from photographs: same person, who is it, which pictures repeat someone."""
