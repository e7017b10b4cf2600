"""How people and programs speak to the agent: words, flags, colours, exit statuses."""
