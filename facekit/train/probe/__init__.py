"""What a representation is worth: nearest neighbours, linear heads, fine-tuning and few-shot face tasks."""
