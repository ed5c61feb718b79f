"""What a link decides: whose turn it is, how much may be sent, and how messages are cut and put together."""
