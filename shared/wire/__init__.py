"""What crosses a boundary: messages and their topics, ids, signed links, and what is left of what was erased."""
