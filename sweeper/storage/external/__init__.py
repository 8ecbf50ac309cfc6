"""Tables of trials that were trained elsewhere."""
