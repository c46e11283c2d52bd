"""The door: what a file claims of itself, and where its data may be, is checked before anything trusts it."""
