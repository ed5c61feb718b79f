"""What needs torch, which serve-core does not: ``make test-torch`` installs it and runs these."""
