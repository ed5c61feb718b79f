"""Values: what serve-core talks about. Frozen, validated when made, free of IO and of the clock."""
