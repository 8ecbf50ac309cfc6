"""Files that appear whole, and text that cannot drive a terminal."""
