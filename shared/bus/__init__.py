"""Kafka: the client, the topics as they are made, and the loops that publish and consume exactly once."""
