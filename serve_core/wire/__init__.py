"""Values to and from messages, metadata and statuses. Nothing outside of here and of servicers knows generated code."""
