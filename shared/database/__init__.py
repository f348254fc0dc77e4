"""PostgreSQL: where it is, the pool and its transactions, and the migrations of each service's schema."""
