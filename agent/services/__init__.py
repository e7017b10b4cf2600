"""What is done: verbs, and the order of their effects."""
