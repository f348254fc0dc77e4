"""The services. They meet only in topics: none imports another."""
