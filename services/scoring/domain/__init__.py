"""Pure decisions of scoring: what an answer counts as, what a window's figures are, and what follows from them."""
