"""Several workers on one machine, and the keeper that has the log for all of them."""
