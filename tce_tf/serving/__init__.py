"""How an encoder leaves the project: the exported module and its loader."""
