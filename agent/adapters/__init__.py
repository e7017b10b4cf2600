"""How the world is touched: one outside thing per module, named after the tool."""
